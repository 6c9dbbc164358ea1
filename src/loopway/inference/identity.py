"""Identify a model by a hash of everything that affects its outputs.

Knows nothing of a model's path.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopway.training.summary import library_versions


def versions() -> dict[str, str]:
    """Return the versions of all installed packages that affect an evaluation."""
    return library_versions("lm_eval", "torch", "transformers", "tokenizers", "datasets")


def identity_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, plugins: Sequence[Path]) -> str:
    """Return a hash of weights and their precision, configs, tokenizer, plugins, and the code that runs them."""
    digest = hashlib.sha256(json.dumps(versions()).encode())
    for content in (*map(_content, _code()), *(_content(path.resolve()) for path in plugins)):
        digest.update(hashlib.sha256(content).digest())
    config: dict[str, Any] = model.config.to_diff_dict()
    for name in ("_name_or_path", "transformers_version", "use_cache"):
        config.pop(name, None)  # its path and the version that wrote it don't matter
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
    """Yield the files of Loopway that a model is built from: in a checkout they change without the version."""
    package = Path(__file__).parents[1]
    yield package / "layout.py"
    for part in ("modeling", "recurrence"):
        yield from sorted((package / part).glob("*.py"))


@cache
def _content(path: Path) -> bytes:
    """Return a file's content, cached at the first read: a process also imports a file only once."""
    return path.read_bytes()
