"""Vet a folder with a model or a tokenizer before transformers opens it: settings in JSON, weights in safetensors.

=========================  ==================================================================================
Threat                     Defence
=========================  ==================================================================================
Pickled weights            Only ``model.safetensors``, or the shards that its index lists, are read.
Code in the folder         ``trust_remote_code`` is False. Only model types and tokenizer classes of transformers
                           or a plugin are accepted; kernels are not downloaded.
A prompt at a terminal     A ``tokenizer_class`` that isn't a tokenizer (``AutoTokenizer``) is rejected: such a
                           class would open the folder again and prompt.
A path out of the folder   Links, shards and a tokenizer's files must stay inside (links may lead into the Hub's
                           cache). Adapters, and settings that name further files or models, are rejected.
Memory                     Files and counts have limits. A model is first built on the meta device and must not be
                           larger than its weights; safetensors rejects headers that don't fit their file.
=========================  ==================================================================================

Not covered: bugs in safetensors, tokenizers and torch, and the text that a model generates. Chat templates run in
transformers' sandbox. Knows nothing of a folder's origin.
"""

import json
import math
import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import nn
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

#: Suffixes of the files that transformers reads from a folder beside its weights.
BESIDE_WEIGHTS = (".json", ".jinja", ".model", ".txt")

_CONFIG, _GENERATION = "config.json", "generation_config.json"
_TOKENIZER, _SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"
_SETTINGS = (_CONFIG, _GENERATION, _TOKENIZER, _SPECIAL_TOKENS)
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_OTHER_FORMATS = re.compile(r"adapter_config\.json|shard-\d+-model-.*")
_PICKLED = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_FLOATS = ("F64", "F32", "BF16", "F16")

_MAX_SETTINGS, _MAX_FILE = 8 * 2**20, 64 * 2**20  # bytes; parsed JSON can take 30 times as much memory
# Numbers that are computed and not stored: rotary frequencies, and masks in some families.
_MAX_BUFFERS = 16 * 2**20
# Limit of counts that transformers loops over in Python to build a config; equals the limit of a layout's depth.
_MAX_COUNT = 100_000
_COUNTED = re.compile(r"(layers?|labels|beams|sequences|blocks|stages|depth|attention_types)$")
# Settings that name other files, models or code, or that are passed to a constructor unchecked.
_REACHING = re.compile(
    "configuration_files|distributed_config|fusion_config|gguf_file|init_inputs|kernel_config|model_args|"
    "transformers_weights|use_pretrained_backbone"
)
# All others are separate packages, or kernels that would be downloaded from the Hub and run.
_IMPLEMENTATIONS = (None, "eager", "sdpa", "flex_attention", "batched_mm", "grouped_mm")
# Paths on the author's machine that a tokenizer_config.json often holds; transformers ignores them.
_PASSED_OVER = ("added_tokens_file", "special_tokens_map_file", "tokenizer_config_file", "tokenizer_file")


def check_model_folder(folder: Path) -> PreTrainedConfig:
    """Validate a model folder: safe settings, and weights that fit them. Runs none of its code, allocates no weights.

    Returns:
        The model's config.

    Raises:
        ConfigError: the folder is invalid; the message names the file, what it holds and what is allowed.
    """
    config = read_config(folder)
    sizes = [size for file in weight_files(folder) for size in _stored_sizes(folder / file)]
    # In some families several stored tensors form one parameter; in others one tensor forms several.
    with _named(_CONFIG), _at_most_parameters(1000 + 8 * len(sizes)), torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    state, held = model.state_dict(), sum(sizes)
    asked = sum(tensor.numel() for tensor in state.values())
    computed = sum(buffer.numel() for name, buffer in model.named_buffers() if name not in state)
    if asked > 2 * held + 2**20 or computed > _MAX_BUFFERS + held:  # tied parameters count twice
        wanted = f"{asked} parameters and {computed} computed numbers"
        raise ConfigError(f"{_CONFIG}: asks for {wanted}, but the weights hold {held}")
    return config


def read_config(folder: Path) -> PreTrainedConfig:
    """Return a folder's config after validating its settings; the weights may be missing.

    Raises:
        ConfigError: as :func:`check_model_folder`.
    """
    settings = _settings(folder, of_model=True).get(_CONFIG)
    if settings is None:
        raise ConfigError(f"{_CONFIG}: is missing")
    if str(given := settings.get("model_type")) not in CONFIG_MAPPING:
        code = "; code that a folder names (auto_map) is never run" if settings.get("auto_map") else ""
        raise wrong_value(f"{_CONFIG}: model_type", given, f"one that transformers or a plugin knows{code}")
    with _named(_CONFIG):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def read_tokenizer_config(folder: Path) -> PreTrainedConfig:
    """Validate a tokenizer's settings and return the config that transformers needs to open it.

    The config has only the model type and the tokenizer's class from config.json; the folder needs no model.

    Raises:
        ConfigError: as :func:`check_model_folder`.
    """
    settings = _settings(folder, of_model=False).get(_CONFIG, {})
    given = str(settings.get("model_type"))
    config = CONFIG_MAPPING[given]() if given in CONFIG_MAPPING else PreTrainedConfig()
    config.tokenizer_class = settings.get("tokenizer_class")
    return config


def weight_files(folder: Path) -> list[str]:
    """Return the names of the weight files: a single file, or the shards that the index lists.

    Raises:
        ConfigError: the index is broken, or lists files outside the folder.
    """
    if (folder / _WEIGHTS).is_file() or not (folder / _INDEX).is_file():  # the same choice as transformers
        return [_WEIGHTS]
    names = _read_json(folder / _INDEX).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ConfigError(f"{_INDEX}: expected a weight_map that lists tensors")
    for file in names.values():
        if not isinstance(file, str) or not re.fullmatch(r"[^/]+\.safetensors", file):
            raise wrong_value(f"{_INDEX}: weight_map", file, "the name of a .safetensors file in the folder")
    return sorted(set(names.values()))


def _settings(folder: Path, *, of_model: bool) -> dict[str, dict[str, Any]]:
    """Validate all files and return the settings by file name: of model and tokenizer, or of the tokenizer alone."""
    if not folder.is_dir():
        raise ConfigError("not a folder")
    roots = [folder.resolve()]
    if roots[0].parent.name == "snapshots":  # in the Hub's cache, files are links to blobs
        roots.append(roots[0].parents[1] / "blobs")
    for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        if path.is_symlink() and not any(path.resolve().is_relative_to(root) for root in roots):
            raise ConfigError(f"{path.name}: is a link that leads out of the folder; put its file there")
        if of_model and _OTHER_FORMATS.fullmatch(path.name):
            raise ConfigError(
                f"{path.name}: adapters and per-process weight files are not supported; merge them"
            )
        limit = _MAX_SETTINGS if path.name in _SETTINGS else _MAX_FILE
        if path.suffix in BESIDE_WEIGHTS and path.is_file() and (size := path.stat().st_size) > limit:
            raise ConfigError(f"{path.name}: has {size} bytes, expected at most {limit}")
    names = [name for name in _SETTINGS if (folder / name).is_file() and (of_model or name != _GENERATION)]
    settings = {name: _read_json(folder / name, checked=of_model or name != _CONFIG) for name in names}
    _check_tokenizer_class(settings)
    return settings


def _read_json(path: Path, *, checked: bool = True) -> dict[str, Any]:
    """Return the object in a JSON file; if `checked`, validate every setting in it, at any depth."""

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, value in pairs if checked else ():
            _check_setting(path.name, key, value)
        return dict(pairs)

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=check)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name}: invalid JSON: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path.name}: got {reprlib.repr(content)}, expected a JSON object")
    return content


def _check_setting(file: str, key: str, value: Any) -> None:
    name = f"{file}: {key[:100]!r}"
    for item in value if isinstance(value, list) else ():
        _check_setting(file, key, item)
    if value and key == "quantization_config":
        raise ConfigError(f"{name} says that the weights are quantised; give the unquantised model")
    if value and _REACHING.fullmatch(key):
        raise ConfigError(
            f"{name} refers to more than this folder's settings and weights; save the model without it"
        )
    if key.endswith(("attn_implementation", "experts_implementation")) and value not in _IMPLEMENTATIONS:
        raise wrong_value(name, value, f"one of {', '.join(filter(None, _IMPLEMENTATIONS))}")
    if isinstance(value, int | float) and value > _MAX_COUNT and _COUNTED.search(key):
        raise wrong_value(name, value, f"at most {_MAX_COUNT}")
    if file in (_TOKENIZER, _SPECIAL_TOKENS) and isinstance(value, str):
        names_file = key.endswith(("_file", "_files")) and not (file == _TOKENIZER and key in _PASSED_OVER)
        # transformers would take a vocabulary given as text for a path.
        if (names_file and "/" in value) or key in ("merges", "vocab"):
            raise wrong_value(name, value, "a file name without a path; put the file into the folder")


def _check_tokenizer_class(settings: dict[str, dict[str, Any]]) -> None:
    """Reject a class that isn't a tokenizer: transformers would call any of its classes, even ones that run code."""
    known = False
    for file in (_CONFIG, _TOKENIZER):
        if (given := settings.get(file, {}).get("tokenizer_class")) is None:
            continue
        is_name = isinstance(given, str) and len(given) <= 100
        stem = re.sub("(Fast)*$", "", given) if is_name else ""
        found = [getattr(transformers, stem + end, None) for end in ("", "Fast")]  # transformers' order
        tokenizers = [_is_tokenizer(cls) for cls in found if cls is not None]
        if not is_name or not all(tokenizers):
            raise wrong_value(f"{file}: tokenizer_class", given, "a tokenizer")
        known = bool(tokenizers)
    if settings.get(_TOKENIZER, {}).get("auto_map") and not known:
        code = "names code for its tokenizer (auto_map), which is never run"
        raise ConfigError(f"{_TOKENIZER}: {code}; save it as one of transformers' tokenizers")


def _is_tokenizer(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, PreTrainedTokenizerBase)


def _stored_sizes(path: Path) -> list[int]:
    """Return the number of values in each of a file's tensors."""
    if not path.is_file():
        pickled = sorted(file.name for file in path.parent.iterdir() if file.suffix in _PICKLED)
        code = f"; pickled weights ({pickled[0]}) are not opened, since they can run code" if pickled else ""
        raise ConfigError(f"{path.name}: is missing{code}; save the model as safetensors")
    with _named(path.name), safe_open(path, framework="pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (it isn't a dict)
        for name, part in parts.items():
            if name.endswith("weight") and part.get_dtype() not in _FLOATS:
                raise wrong_value(f"{path.name}: {name}", part.get_dtype(), f"one of {', '.join(_FLOATS)}")
        return [math.prod(part.get_shape()) for part in parts.values()]


@contextmanager
def _named(file: str) -> Iterator[None]:
    """Turn a library's error within the block into a one-line ConfigError that names the file."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        ours = next((found for found in (error, error.__cause__) if isinstance(found, LoopwayError)), None)
        text = one_line(ours) if ours else f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(f"{file}: {text[:300]}") from error  # some libraries' errors are very long


@contextmanager
def _at_most_parameters(limit: int) -> Iterator[None]:
    """Limit the number of parameters built within the block: a config can ask for more modules than fit in memory."""
    made = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        made += parameter is not None
        if made > limit:
            raise ConfigError(
                f"{_CONFIG}: asks for more than {limit} weights, far more than the folder holds"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
