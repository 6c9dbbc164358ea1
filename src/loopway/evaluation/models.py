"""The models to evaluate: run folders, their checkpoints, model folders, names on the Hugging Face Hub.

Knows how a model is opened and told from another; nothing of tasks.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from loopway.checks import one_line
from loopway.errors import ConfigError
from loopway.training.generation import open_model
from loopway.training.run_folder import RunFolder


@dataclass(frozen=True)
class EvaluatedModel:
    """An open model.

    Attributes:
        name: how the user called it.
        run: the run that it comes from, if any.
        key: a hash of weights, config, tokenizer and precision: equal for two models that give equal answers.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    run: RunFolder | None
    key: str


def open_evaluated(name: str, plugins: Sequence[Path] = (), dtype: str | None = None) -> EvaluatedModel:
    """Open a run folder, a checkpoint, a model folder or a name on the Hub.

    Args:
        name: which one.
        plugins: Python files that register what the model is made of.
        dtype: `float32`, `bfloat16` or `float16` instead of the precision in which the weights are stored.

    Raises:
        ConfigError: it can't be opened.
    """
    path = Path(name)
    if path.exists() or name.startswith((".", "/", "~")):
        model, tokenizer = open_model(path.expanduser(), plugins)
    else:
        model, tokenizer = _from_hub(name)
    if dtype is not None:
        model = model.to(getattr(torch, dtype))
    run = next((RunFolder(folder) for folder in (path, *path.resolve().parents[:2]) if _is_run(folder)), None)
    return EvaluatedModel(name, model.eval(), tokenizer, run, _key(model, tokenizer))


def _is_run(folder: Path) -> bool:
    return RunFolder(folder).config.is_file()


def _from_hub(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForCausalLM.from_pretrained(name, device_map=device)
        return model, AutoTokenizer.from_pretrained(name)
    except Exception as error:
        raise ConfigError(
            f"{name!r} is no folder here, and as a name on the Hugging Face Hub it can't be opened: {one_line(error)}"
        ) from error


def _key(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    digest = hashlib.sha256()
    config: dict[str, Any] = model.config.to_diff_dict()
    for name in ("_name_or_path", "transformers_version", "use_cache"):
        config.pop(name, None)  # where it lies and what wrote it don't matter
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend else json.dumps(sorted(tokenizer.get_vocab().items()))
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    digest.update(json.dumps([vocabulary, special, getattr(tokenizer, "add_bos_token", None)]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
