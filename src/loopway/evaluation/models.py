"""The models to evaluate: run folders, their checkpoints, model folders, names on the Hugging Face Hub.

Knows how a model is opened and told from another; nothing of tasks.
"""

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import loopway
from loopway.checks import one_line
from loopway.errors import ConfigError
from loopway.training.generation import open_model
from loopway.training.plugins import load_plugins
from loopway.training.run_folder import RunFolder


@dataclass(frozen=True)
class EvaluatedModel:
    """An open model.

    Attributes:
        name: how the user called it.
        run: the run that it comes from, if any.
        plugins: Python files that registered what it is made of.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    run: RunFolder | None
    plugins: Sequence[Path] = ()

    @cached_property
    def key(self) -> str:
        """A hash of all that its answers depend on: weights and their precision, configs, tokenizer, plugins, the code
        that runs it. Two models with the same key give the same answers. Reads all weights.
        """
        return _key(self.model, self.tokenizer, self.plugins)


def open_evaluated(name: str, plugins: Sequence[Path] = (), dtype: str | None = None) -> EvaluatedModel:
    """Open a run folder, a checkpoint, a model folder or a name on the Hub.

    Args:
        name: which one.
        plugins: Python files that register what the model is made of.
        dtype: `float32`, `bfloat16` or `float16` instead of the precision in which the weights are stored.

    Raises:
        ConfigError: it can't be opened.
    """
    path = Path(name).expanduser()
    if path.exists() or name.startswith((".", "/", "~")):
        name = os.path.normpath(name)
        model, tokenizer = open_model(path, plugins)
    else:
        model, tokenizer = _from_hub(name, plugins)
    if dtype is not None:
        model = model.to(getattr(torch, dtype))
    return EvaluatedModel(name, model.eval(), tokenizer, _run_of(path), plugins)


def versions() -> dict[str, str]:
    """Of everything that has a part in an evaluation, as far as it is installed."""
    found = {"python": platform.python_version()}
    for package in ("loopway", "lm_eval", "torch", "transformers", "tokenizers", "datasets"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _run_of(path: Path) -> RunFolder | None:
    """The run that a path is, or whose model or checkpoint it is."""
    path = path.resolve()
    places = [path]
    if path == RunFolder(path.parent).model:
        places.append(path.parent)
    if path.parent == RunFolder(path.parent.parent).checkpoints:
        places.append(path.parent.parent)
    return next((RunFolder(place) for place in places if RunFolder(place).config.is_file()), None)


def _from_hub(name: str, plugins: Sequence[Path]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    load_plugins(plugins)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForCausalLM.from_pretrained(name, device_map=device)
        return model, AutoTokenizer.from_pretrained(name)
    except Exception as error:
        raise ConfigError(
            f"{name!r} is no folder here, and as a name on the Hugging Face Hub it can't be opened: {one_line(error)}"
        ) from error


def _key(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, plugins: Sequence[Path]) -> str:
    digest = hashlib.sha256(json.dumps(versions()).encode())
    for content in (*map(_content, _code()), *(_content(path.resolve()) for path in plugins)):
        digest.update(hashlib.sha256(content).digest())
    config: dict[str, Any] = model.config.to_diff_dict()
    for name in ("_name_or_path", "transformers_version", "use_cache"):
        config.pop(name, None)  # where it lies and what wrote it don't matter
    generation = model.generation_config.to_dict() if model.generation_config else {}
    generation.pop("transformers_version", None)
    digest.update(json.dumps([config, generation], sort_keys=True, default=str).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend else json.dumps(sorted(tokenizer.get_vocab().items()))
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, getattr(tokenizer, "add_bos_token", None)]
    digest.update(json.dumps([vocabulary, special, tokenizer.model_max_length]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _code() -> Iterator[Path]:
    """What of Loopway a model is made of: in a checkout it changes without the version."""
    package = Path(loopway.__file__).parent
    yield package / "layout.py"
    for part in ("modeling", "recurrence"):
        yield from sorted((package / part).glob("*.py"))


@cache
def _content(path: Path) -> bytes:
    """As it was when first asked for: a process runs a file once."""
    return path.read_bytes()
