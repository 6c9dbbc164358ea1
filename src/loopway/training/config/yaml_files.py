"""Reading config files in YAML 1.2: `extends`, and overrides from the command line.

Knows nothing of what the keys mean; gives plain dicts. Every mistake is a ConfigError of one line.
"""

import copy
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent
from ruamel.yaml.nodes import ScalarNode

from loopway.errors import ConfigError

_TEXT = "tag:yaml.org,2002:str"
_MOST_CHARACTERS, _MOST_NODES, _DEEPEST = 2**18, 20_000, 50


class _Constructor(SafeConstructor):
    """Builds what JSON knows, too, dates as text; tells the line of a value that can't be built."""

    yaml_constructors = {
        tag: build
        for tag, build in SafeConstructor.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
    } | {"tag:yaml.org,2002:timestamp": SafeConstructor.construct_yaml_str}

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:  # of a number or a tag of YAML's own
            what = f"{node.value!r:.40} is no {node.tag.rpartition(':')[2]}, as which it is written"
            raise MarkedYAMLError(
                problem=f"{what}; put text in quotes", problem_mark=node.start_mark
            ) from error
        if isinstance(value, int) and value.bit_length() > 63:
            raise MarkedYAMLError(problem="a number of more than 63 bits", problem_mark=node.start_mark)
        return value


def parse_yaml(text: str, source: str) -> Any:
    """Parse one YAML document. A mistake, a key given twice among them, names `source` and the line.

    Raises:
        ConfigError: the text isn't YAML, or larger than a config can be: its aliases count as what they stand for.
    """
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _Constructor
    try:
        if len(text) > _MOST_CHARACTERS:
            raise YAMLError(f"more than {_MOST_CHARACTERS:,} characters, which no config has")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)
            _check_size(reader, text)
            return reader.load(text)
    except ValueError as error:  # of the scanner, for a character that there isn't
        raise ConfigError(f"{source}: not valid YAML: {error}") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}, line {mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        if isinstance(error, DuplicateKeyError):
            key = re.sub(r'(?s)^[^"]*"|"( with value .*)?$', "", problem)
            raise ConfigError(f"{place}: the key {key!r} is given twice; keep one") from None
        if problem.startswith("found undefined alias"):
            problem += "; put text that begins with * in quotes"
        raise ConfigError(f"{place}: not valid YAML: {problem}") from None


def _check_size(reader: YAML, text: str) -> None:
    """Raise YAMLError for a document that is nested too deeply, or too large once its aliases are written out."""
    sizes, open_nodes = dict[str, int](), list[tuple[str | None, int]]()
    total = 0
    for event in reader.parse(text):
        if isinstance(event, AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise MarkedYAMLError(problem=f"*{event.anchor} holds itself", problem_mark=event.start_mark)
            total += sizes.get(event.anchor, 0)  # an unknown one is an error when it is loaded
        elif isinstance(event, NodeEvent):
            total += 1
            if isinstance(event, CollectionStartEvent):
                open_nodes.append((event.anchor, total))
            elif event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before + 1
        if len(open_nodes) > _DEEPEST or total > _MOST_NODES:
            what = f"{_DEEPEST} levels" if len(open_nodes) > _DEEPEST else f"{_MOST_NODES:,} values"
            raise MarkedYAMLError(problem=f"more than {what}", problem_mark=event.start_mark)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping; its ``extends: other.yaml`` (relative to the file) is read first and merged under it."""
    return _read(Path(path), ())


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if len(seen) >= _DEEPEST:
        raise ConfigError(f"{path}: `extends` is followed through {_DEEPEST} files and no further")
    if resolved in seen:
        chain = " -> ".join(p.name for p in (*seen, resolved))
        raise ConfigError(f"{path}: `extends` goes in a circle: {chain}")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_CHARACTERS + 1)
    except FileNotFoundError:
        wanted_by = f" (extended by {seen[-1]})" if seen else ""
        raise ConfigError(f"no config file {path}{wanted_by}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found {_kind(content)}")
    parent = content.pop("extends", None)
    if parent is None:
        return content
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: `extends` must be one file name, got {parent!r}")
    return merge(_read(path.parent / parent, (*seen, resolved)), content)


def to_yaml(content: Any) -> str:
    """Return YAML that :func:`parse_yaml`, and readers of YAML 1.1, read as ``content``."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that YAML 1.2 would read as something else; PyYAML itself knows YAML 1.1."""


def _write_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    tag = YAML(typ="safe", pure=True).resolver.resolve(ScalarNode, text, (True, False))
    return dumper.represent_scalar(_TEXT, text, style=None if tag == _TEXT else "'")


_Dumper.add_representer(str, _write_text)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top, mapping by mapping; lists and scalars are replaced. Neither is changed."""
    merged = copy.deepcopy(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def apply_overrides(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay ``training.max_steps=10`` style overrides (values are YAML) on top of `config`, which is not changed."""
    for override in overrides:
        dotted, equals, value = override.partition("=")
        keys = dotted.split(".")
        if not equals or not all(keys) or len(keys) > _DEEPEST:
            raise ConfigError(
                f"override {override[:100]!r}: expected key=value, for example training.max_steps=10"
            )
        patch: Any = parse_yaml(value, f"override {override!r}")
        for key in reversed(keys):
            patch = {key: patch}
        node: Any = config
        for depth, key in enumerate(keys[:-1]):
            node = node.get(key)
            if node is None:
                break
            if not isinstance(node, dict):
                inner = ".".join(keys[: depth + 1])
                raise ConfigError(f"override {override!r}: {inner} is {_kind(node)}, it has no fields")
        config = merge(config, patch)
    return config


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "a mapping", list: "a list"}.get(type(value), f"the value {value!r}")
