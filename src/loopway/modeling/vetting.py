"""Whether a folder with a model or a tokenizer may be opened: looked at before transformers touches it.

A folder from elsewhere is data and nothing else: settings in JSON, weights in safetensors. What would run code, unpickle,
read files from outside, or take more memory than its weights is refused. Reads the JSON and the headers of the weights; a
model is built only on the meta device, without memory. Knows nothing of where a folder comes from.
"""

import json
import math
import re
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeGuard

import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from loopway.checks import one_line, wrong_value
from loopway.errors import ConfigError, LoopwayError
from loopway.modeling.configuration import RecursiveConfigMixin

#: How the files end that transformers reads of a folder beside its weights.
BESIDE_WEIGHTS = (".json", ".jinja", ".model", ".txt")

_CONFIG, _TOKENIZER, _SPECIAL_TOKENS = "config.json", "tokenizer_config.json", "special_tokens_map.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}

# In bytes. Read into Python, JSON can take 30 times as much.
_MAX_SETTINGS = 8 * 2**20
_MAX_FILE = 64 * 2**20
# Numbers that are computed and not stored: rotary frequencies, in some families masks.
_MAX_BUFFERS = 16 * 2**20
# What transformers counts up to in Python while it makes a config; as many as a layout may have.
_MAX_COUNT = 100_000
_COUNTED = re.compile(r"(layers?|labels|beams|sequences|blocks|stages|depth|attention_types)$")

# Settings by which a folder reaches for more than its own settings and weights, wherever in a file they stand.
_REFUSED = {
    "configuration_files": f"names other settings than {_CONFIG}",
    "distributed_config": "spreads the model over processes",
    "fusion_config": "changes the model's code",
    "gguf_file": "names a file of another format",
    "init_inputs": "goes into a constructor unread",
    "kernel_config": "changes the model's code",
    "model_args": "goes into another library's constructor unread",
    "quantization_config": "says that the weights are quantised, which can't be opened yet",
    "transformers_weights": f"names other weights than {_WEIGHTS} or its index",
    "use_pretrained_backbone": "asks for another model's weights",
}
# All others are packages of their own or kernels that would be fetched from the Hub and run.
_IMPLEMENTATIONS = {
    "attn_implementation": ("eager", "sdpa", "flex_attention"),
    "experts_implementation": ("eager", "batched_mm", "grouped_mm"),
}
# Paths on its author's machine that many a tokenizer_config.json holds; transformers looks into the folder instead.
_PASSED_OVER = ("added_tokens_file", "special_tokens_map_file", "tokenizer_config_file", "tokenizer_file")

_shorten = reprlib.Repr()
_shorten.maxstring = 100  # names of tensors have about 60 characters
_shown = _shorten.repr


@dataclass(frozen=True)
class _Stored:
    """A tensor, as its file's header describes it."""

    file: str
    dtype: str
    shape: tuple[int, ...]


def check_model_folder(folder: Path) -> None:
    """Refuse a folder that isn't settings and weights that fit each other. Runs no code of it, allocates no weights.

    Raises:
        ConfigError: which file holds what, and what is allowed.
    """
    config = read_config(folder)
    with _as_config_errors("weights"):
        _check_sizes(config, _stored_tensors(folder))


def read_config(folder: Path) -> PreTrainedConfig:
    """The config of a folder whose settings pass; its weights need not be there yet.

    Raises:
        ConfigError: as :func:`check_model_folder`.
    """
    with _as_config_errors("settings"):
        _check_model_files(folder)
        settings = _read_settings(folder, _CONFIG, "generation_config.json")
        _check_tokenizer_class(settings)
        _check_model_type(settings[_CONFIG])
    with _as_config_errors(_CONFIG):
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.dtype is not None and config.dtype not in _DTYPES:
            raise wrong_value(
                f"{_CONFIG}: dtype", str(config.dtype), f"one of {', '.join(map(str, _DTYPES))}"
            )
    return config


def read_tokenizer_config(folder: Path) -> PreTrainedConfig:
    """Read what transformers needs of a folder's config.json to open its tokenizer, if the tokenizer's settings pass.

    Only the model type and the tokenizer's class are taken over; the folder need not hold a model.

    Raises:
        ConfigError: as :func:`check_model_folder`.
    """
    with _as_config_errors("settings"):
        _check_files(folder)
        settings = _read_settings(folder)
        names = _read_json(folder / _CONFIG, _MAX_SETTINGS) if (folder / _CONFIG).is_file() else {}
        _check_tokenizer_class(settings | {_CONFIG: names})
        given = names.get("model_type")
        config = CONFIG_MAPPING[given]() if _is_known_type(given) else PreTrainedConfig()
        config.tokenizer_class = names.get("tokenizer_class")
    return config


def weight_files(folder: Path) -> list[str]:
    """The names of the files that hold the weights: one, or the shards that the index lists.

    Raises:
        ConfigError: the index is broken, or lists files outside the folder.
    """
    return sorted(set(_weight_map(folder).values())) or [_WEIGHTS]


@contextmanager
def _as_config_errors(what: str) -> Iterator[None]:
    """Within, whatever is raised about `what` becomes one line that names it."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        ours = next((found for found in (error, error.__cause__) if isinstance(found, LoopwayError)), None)
        text = one_line(ours or error)
        if len(text) > 300:  # some libraries' errors list all that they know
            text = f"{text[:300]} …"
        raise ConfigError(f"{what}: {text}" if ours else f"{what}: {type(error).__name__}: {text}") from error


def _read_settings(folder: Path, *names: str) -> dict[str, dict[str, Any]]:
    """The tokenizer's settings, if any, and those in files of these names; each of them passes."""
    settings = {
        name: _read_json(folder / name, _MAX_SETTINGS)
        for name in (*names, _TOKENIZER, _SPECIAL_TOKENS)
        if name == _CONFIG or (folder / name).is_file()
    }
    for name, content in settings.items():
        for key, value in _entries(content):
            _check_setting(name, key, value)
            if name in (_TOKENIZER, _SPECIAL_TOKENS):
                _check_tokenizer_setting(name, key, value)
    return settings


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError("it is no folder")
    place = folder.resolve()
    roots = [place]
    if place.parent.name == "snapshots":  # in the Hub's cache, names are links to contents
        roots.append(place.parents[1] / "blobs")
    for entry in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        if entry.is_symlink() and not any(entry.resolve().is_relative_to(root) for root in roots):
            raise ConfigError(
                f"{entry.name}: is a link that leads out of the folder; put the file in its place"
            )
        if entry.suffix in BESIDE_WEIGHTS and entry.is_file():
            _check_file_size(entry, _MAX_FILE)


def _check_model_files(folder: Path) -> None:
    _check_files(folder)
    for entry in folder.iterdir():
        if entry.name == "adapter_config.json":
            raise ConfigError(
                f"{entry.name}: adapters are not opened; merge this one into its model and save that"
            )
        if re.match(r"shard-\d+-model-", entry.name):
            raise ConfigError(
                f"{entry.name}: weights that are spread over processes are not opened; gather them"
            )


def _check_file_size(path: Path, limit: int) -> None:
    if (size := path.stat().st_size) > limit:
        raise ConfigError(f"{path.name}: has {size} bytes, expected at most {limit}")


def _read_json(path: Path, limit: int) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path.name}: is missing")
    _check_file_size(path, limit)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name}: is no JSON: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path.name}: got {_shown(content)}, expected a JSON object")
    return content


def _entries(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Everything in a JSON object, at whatever depth, with its key; a list's items with that of the list."""
    waiting = list(content.items())
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, dict):
            waiting.extend(value.items())
        elif isinstance(value, list):
            waiting.extend((key, item) for item in value)


def _check_setting(name: str, key: str, value: Any) -> None:
    if value and key in _REFUSED:
        raise ConfigError(f"{name}: {key} {_REFUSED[key]}; save the model without it")
    if (choices := _IMPLEMENTATIONS.get(key.lstrip("_"))) and value is not None:
        for given in value.values() if isinstance(value, dict) else [value]:
            if given is not None and given not in choices:
                raise wrong_value(f"{name}: {key}", given, f"one of {', '.join(choices)}")
    if isinstance(value, int | float) and value > _MAX_COUNT and _COUNTED.search(key):
        raise wrong_value(f"{name}: {_shown(key)}", value, f"at most {_MAX_COUNT}")


def _check_tokenizer_setting(name: str, key: str, value: Any) -> None:
    """Files are named by plain names; a vocabulary that is text would be taken for a path."""
    names_file = key.endswith(("_file", "_files")) and not (name == _TOKENIZER and key in _PASSED_OVER)
    if isinstance(value, str) and ((names_file and re.search(r"[/\\]", value)) or key in ("merges", "vocab")):
        raise wrong_value(f"{name}: {_shown(key)}", value, "no path; put the file into the folder")


def _check_tokenizer_class(settings: dict[str, dict[str, Any]]) -> None:
    """transformers would call any of its own classes by this name, also ones that run code which a folder names."""
    known = False
    for name in (_CONFIG, _TOKENIZER):
        given = settings.get(name, {}).get("tokenizer_class")
        if given is None:
            continue
        if not isinstance(given, str) or len(given) > 100:
            raise wrong_value(f"{name}: tokenizer_class", given, "a tokenizer")
        stem = re.sub("(Fast)*$", "", given)  # transformers tries it with the suffix and without
        found = [cls for cls in (getattr(transformers, stem + end, None) for end in ("", "Fast")) if cls]
        if not all(isinstance(cls, type) and issubclass(cls, PreTrainedTokenizerBase) for cls in found):
            raise wrong_value(f"{name}: tokenizer_class", given, "a tokenizer")
        known = bool(found)
    if settings.get(_TOKENIZER, {}).get("auto_map") and not known:
        raise ConfigError(
            f"{_TOKENIZER}: names code for its tokenizer (auto_map), which is never run; save the tokenizer as one of "
            f"transformers' own"
        )


def _check_model_type(content: dict[str, Any]) -> None:
    given = content.get("model_type")
    if not _is_known_type(given):
        code = ", and code that a folder names (auto_map) is never run" if content.get("auto_map") else ""
        raise wrong_value(f"{_CONFIG}: model_type", given, f"one that transformers or a plugin knows{code}")
    config_class = CONFIG_MAPPING[given]
    known = {field.name for field in fields(config_class)} | {"model_type"}
    for key in content:
        # transformers sets whatever the file holds, also in place of methods; properties check what they are set to.
        is_code = hasattr(config_class, key) and getattr(getattr(config_class, key), "fset", None) is None
        if is_code and key not in known:
            raise ConfigError(f"{_CONFIG}: {key} is no setting of {given}, but a part of its code; remove it")


def _is_known_type(model_type: Any) -> TypeGuard[str]:
    return isinstance(model_type, str) and model_type in CONFIG_MAPPING


def _weight_map(folder: Path) -> dict[str, str]:
    """The index: which shard holds which tensor. Empty where a single file is opened, as transformers decides it."""
    if (folder / _WEIGHTS).is_file() or not (folder / _INDEX).is_file():
        return {}
    index = _read_json(folder / _INDEX, _MAX_FILE)
    names, metadata = index.get("weight_map"), index.get("metadata")
    if not isinstance(names, dict) or not names or not isinstance(metadata, dict):
        raise ConfigError(f"{_INDEX}: expected a weight_map that lists tensors, and metadata")
    for file in names.values():
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\]+\.safetensors", file):
            raise wrong_value(f"{_INDEX}: weight_map", file, "the name of a .safetensors file in the folder")
    dtypes = [str(dtype).removeprefix("torch.") for dtype in _DTYPES]
    if metadata.get("dtype", dtypes[0]) not in dtypes:
        raise wrong_value(f"{_INDEX}: metadata.dtype", metadata["dtype"], f"one of {', '.join(dtypes)}")
    return names


def _stored_tensors(folder: Path) -> dict[str, _Stored]:
    stored: dict[str, _Stored] = {}
    for file in weight_files(folder):
        for name, tensor in _read_header(folder / file).items():
            if name in stored:
                raise ConfigError(f"{file}: holds {_shown(name)}, and so does {stored[name].file}")
            stored[name] = tensor
    for name, file in _weight_map(folder).items():
        if name not in stored or stored[name].file != file:
            raise ConfigError(f"{_INDEX}: says that {file} holds {_shown(name)}, which it doesn't")
    return stored


def _read_header(path: Path) -> dict[str, _Stored]:
    """What a file says that it holds; safetensors refuses headers that don't fit the file."""
    if not path.is_file():
        pickled = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in _PICKLED)
        instead = (
            f"; pickled weights ({pickled[0]}) are not opened, since that can run code" if pickled else ""
        )
        raise ConfigError(f"{path.name}: is missing{instead}; save the model as safetensors")
    with _as_config_errors(path.name), safe_open(path, framework="pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
        return {
            name: _Stored(path.name, part.get_dtype(), tuple(part.get_shape()))
            for name, part in parts.items()
        }


def _check_sizes(config: PreTrainedConfig, stored: dict[str, _Stored]) -> None:
    """Refuse a config whose model is larger than what is stored, or has other tensors."""
    # In some families several stored tensors make one parameter, in others one makes several.
    with _as_config_errors(_CONFIG), _at_most_parameters(1000 + 8 * len(stored)), torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    state = model.state_dict(keep_vars=True)  # so that tied parameters are one object
    if isinstance(config, RecursiveConfigMixin):
        _check_names(state, stored)
    # Of its own families transformers renames, joins and splits tensors; then only their sum can be held to.
    if stored.keys() <= state.keys():
        _check_shapes(state, stored)
    held = sum(math.prod(tensor.shape) for tensor in stored.values())
    asked = _count(state.values())
    if asked > 2 * held + 2**20:  # tied parameters count twice
        raise ConfigError(f"{_CONFIG}: asks for {asked} parameters, and the weights hold {held}")
    computed = _count(buffer for name, buffer in model.named_buffers() if name not in state)
    if computed > _MAX_BUFFERS + held:
        raise ConfigError(f"{_CONFIG}: asks for {computed} numbers beside the {held} that the weights hold")


def _check_names(state: dict[str, Tensor], stored: dict[str, _Stored]) -> None:
    unknown = next((name for name in stored if name not in state), None)
    if unknown is not None:
        raise ConfigError(
            f"{stored[unknown].file}: holds {_shown(unknown)}, which a model of {_CONFIG} hasn't"
        )
    there = {id(state[name]) for name in stored}
    missing = next((name for name, tensor in state.items() if id(tensor) not in there), None)
    if missing is not None:
        raise ConfigError(f"{_WEIGHTS}: holds no {missing}, which a model of {_CONFIG} has")


def _check_shapes(state: dict[str, Tensor], stored: dict[str, _Stored]) -> None:
    for name, tensor in stored.items():
        wanted = state[name]
        if tensor.shape != tuple(wanted.shape):
            raise ConfigError(
                f"{tensor.file}: {name} is {list(tensor.shape)}, and by {_CONFIG} it is {list(wanted.shape)}"
            )
        if wanted.is_floating_point() and tensor.dtype not in _DTYPES.values():
            raise wrong_value(f"{tensor.file}: {name}", tensor.dtype, f"one of {', '.join(_DTYPES.values())}")


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


@contextmanager
def _at_most_parameters(limit: int) -> Iterator[None]:
    """Within, building stops at this many parameters: a config can ask for more modules than Python could make."""
    made = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        made += parameter is not None
        if made > limit:
            raise ConfigError(f"{_CONFIG}: asks for more than {limit} weights, far more than are stored")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
