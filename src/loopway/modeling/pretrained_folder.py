"""Opening model folders and names on the Hugging Face Hub, whoever they come from: looked at first, never run.

Knows nothing of runs; gives what transformers gives.
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
    """A folder with a model or a tokenizer, or a name on the Hub: nothing is opened before it has been looked at.

    Nobody is asked whether to run a folder's code, and none of it is run.

    Args:
        name: a folder; or, if there is none and it doesn't look like a path, a name on the Hub.

    Raises:
        ConfigError: in all methods, if it can't be opened; what is wrong with it.
    """

    def __init__(self, name: Path | str) -> None:
        self.name = str(name)
        path = Path(name).expanduser()
        self.is_local = isinstance(name, Path) or path.exists() or self.name.startswith((".", "/", "~"))
        self._folder = path if self.is_local else None

    def config(self) -> PreTrainedConfig:
        """The model's config; no weights are fetched or read."""
        with self._named():
            return read_config(self._model_settings())

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer; no weights are fetched or read, and there need not be a model."""
        with self._named():
            folder = self._settings()
            config = read_tokenizer_config(folder)
            config._name_or_path = self.name  # by which transformers knows some tokenizers of the Hub
            return _tokenizer(folder, config)

    def model(self, *, every_weight: bool = False, **options: Any) -> PreTrainedModel:
        """The model, on the GPU where there is one.

        Args:
            every_weight: refuse a checkpoint that lacks weights, which transformers would start at random, or has more;
                for a recursive model always so.
            options: of ``from_pretrained``.
        """
        with self._named():
            folder = self._model_settings()
            if not self.is_local:
                read_config(folder)  # before gigabytes are fetched
                _download(self.name, weight_files(folder), revision=folder.name)
            every_weight |= isinstance(check_model_folder(folder), RecursiveConfigMixin)
            options = {"device_map": "cuda" if torch.cuda.is_available() else "cpu", **options}
            options |= {
                "output_loading_info": True,
                "ignore_mismatched_sizes": True,
            }  # of which check_loading tells
            # These only say once more what the check makes sure of.
            options |= {"use_safetensors": True, "trust_remote_code": False}
            with no_file_bars(), _no_warnings() if every_weight else contextlib.nullcontext():
                loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
            model, info = loaded
            check_loading(info if every_weight else {"mismatched_keys": info["mismatched_keys"]})
            if name := first_bad_weight(model):
                raise ConfigError(
                    f"its weight {name} isn't finite in {str(model.dtype).removeprefix('torch.')}; open it in float32 "
                    f"(--dtype float32), unless the training that made it failed"
                )
            return model

    def _settings(self) -> Path:
        """The folder that holds everything but perhaps the weights; the Hub's is named after its revision."""
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
        """Within, every error is a ConfigError that says what can't be opened."""
        try:
            yield
        except Exception as error:
            where = (
                self.name
                if self.is_local
                else f"{self.name!r} is no folder here, and as a name on the Hugging Face Hub it"
            )
            raise ConfigError(f"{where} can't be opened: {one_line(error)}") from error


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
        is_panic = type(error).__module__ == "pyo3_runtime"  # of Rust code, and no Exception
        if not isinstance(error, Exception) and not is_panic:
            raise
        raise ConfigError(f"the tokenizer: {one_line(error)}") from error


@contextlib.contextmanager
def no_file_bars() -> Iterator[None]:
    """Within, transformers shows no bars for the files that it reads and writes."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Within, transformers doesn't warn: of weights that don't fit, an error tells."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
