"""Open model folders and models of the Hugging Face Hub from any source, vetted first and without running their code.

Knows nothing of runs; returns transformers' objects.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import is_offline_mode, snapshot_download
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from loopway.checks import one_line
from loopway.errors import ConfigError
from loopway.modeling.configuration import RecursiveConfigMixin
from loopway.modeling.vetting import (
    BESIDE_WEIGHTS,
    check_model_folder,
    read_config,
    read_tokenizer_config,
    weight_files,
)
from loopway.modeling.weights import check_loading, first_bad_weight


class PretrainedFolder:
    """A model or tokenizer folder, or a name on the Hub. All files are vetted before they are opened.

    A folder's code is never run, and there is no prompt for it.

    Args:
        name: a folder; or a name on the Hub, if no such folder exists and it doesn't look like a path.

    Raises:
        ConfigError: in all methods, if it can't be opened; the message says why.
    """

    def __init__(self, name: Path | str) -> None:
        self.name = str(name)
        path = Path(name).expanduser()
        self.is_local = isinstance(name, Path) or path.exists() or self.name.startswith((".", "/", "~"))
        self._folder = path if self.is_local else None

    def config(self) -> PreTrainedConfig:
        """Return the model's config; no weights are downloaded or read."""
        with self._named():
            return read_config(self._model_settings())

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer; no weights are downloaded or read, and the folder needs no model."""
        with self._named():
            folder = self._settings()
            config = read_tokenizer_config(folder)
            config._name_or_path = self.name  # transformers recognises some Hub tokenizers by it
            return _tokenizer(folder, config)

    def model(self, *, every_weight: bool = False, **options: Any) -> PreTrainedModel:
        """Return the model, on the GPU if there is one.

        Args:
            every_weight: reject a checkpoint with unexpected weights, too. Recursive models are always checked this way.
                Missing weights, which transformers would initialise at random, are always rejected.
            options: options of ``from_pretrained``.
        """
        with self._named():
            folder = self._model_settings()
            if not self.is_local:
                read_config(folder)  # fails before gigabytes are downloaded
                _download(self.name, weight_files(folder), revision=folder.name)
            every_weight |= isinstance(check_model_folder(folder), RecursiveConfigMixin)
            options = {"device_map": "cuda" if torch.cuda.is_available() else "cpu", **options}
            options |= {
                "output_loading_info": True,
                "ignore_mismatched_sizes": True,
            }  # check_loading reports mismatches
            # Redundant: check_model_folder has ensured both.
            options |= {"use_safetensors": True, "trust_remote_code": False}
            with no_file_bars(), _no_warnings() if every_weight else contextlib.nullcontext():
                loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
            model, info = loaded
            tolerated = {} if every_weight else {"unexpected_keys": []}
            check_loading({**info, **tolerated})
            _check_token_ids(model.generation_config)
            if name := first_bad_weight(model):
                precision = str(model.dtype).removeprefix("torch.")
                hint = "float32 may hold it" if precision == "float16" else "the training that made it failed"
                raise ConfigError(f"its weight {name} isn't finite in {precision}; {hint}")
            return model

    def _settings(self) -> Path:
        """Return the folder with all files except, perhaps, weights. A Hub folder is named after its revision."""
        if self._folder is None:
            self._folder = Path(_download(self.name, [f"*{end}" for end in BESIDE_WEIGHTS]))
        return self._folder

    def _model_settings(self) -> Path:
        folder = self._settings()
        if self.is_local and not (folder / "config.json").is_file():
            raise ConfigError("it holds no model (no config.json); give a model folder or a name on the Hub")
        return folder

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Turn every error within the block into a ConfigError that names what can't be opened."""
        try:
            yield
        except Exception as error:
            where = (
                self.name
                if self.is_local
                else f"{self.name!r} is no folder here, and as a name on the Hugging Face Hub it"
            )
            raise ConfigError(f"{where} can't be opened: {one_line(error)}") from error


def _check_token_ids(settings: Any) -> None:
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = getattr(settings, name, None)
        if not all(isinstance(token, int) for token in (ids if isinstance(ids, list) else [ids or 0])):
            raise ConfigError(
                f"generation_config.json: {name} is {ids!r}, expected a whole number or a list of them"
            )


def _download(name: str, patterns: list[str], revision: str | None = None) -> str:
    return snapshot_download(
        name,
        revision=revision,
        allow_patterns=patterns,
        ignore_patterns=["*/*"],
        local_files_only=is_offline_mode(),  # huggingface_hub 1.33 doesn't look for a cached revision by itself
    )


def _tokenizer(folder: Path, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    except BaseException as error:
        is_panic = type(error).__module__ == "pyo3_runtime"  # a panic of Rust code isn't an Exception
        if not isinstance(error, Exception) and not is_panic:
            raise
        raise ConfigError(f"tokenizer: {one_line(error)}") from error


@contextlib.contextmanager
def no_file_bars() -> Iterator[None]:
    """Disable transformers' progress bars for files within the block."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Disable transformers' warnings within the block: check_loading raises an error for weights that don't fit."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
