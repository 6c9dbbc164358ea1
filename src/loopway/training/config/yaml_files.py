"""Reading YAML config files: `extends`, overrides from the command line, numbers such as ``6e-4``.

Knows nothing of what the keys mean; gives plain dicts. Every mistake is a ConfigError of one line.
"""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from loopway.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``6e-4`` as a string; here it is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, source: str) -> Any:
    """Parse one YAML document; a syntax error names `source` and the line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}, line {mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{place}: not valid YAML: {problem}") from None


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping; its ``extends: other.yaml`` (relative to the file) is read first and merged under it."""
    return _read(Path(path), ())


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in seen:
        chain = " -> ".join(p.name for p in (*seen, resolved))
        raise ConfigError(f"{path}: `extends` goes in a circle: {chain}")
    try:
        text = path.read_text(encoding="utf-8")
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
        if not equals or not all(keys):
            raise ConfigError(f"override {override!r}: expected key=value, for example training.max_steps=10")
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
