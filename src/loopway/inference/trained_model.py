"""Opening a trained model: a run folder, a checkpoint, a model folder, a name on the Hugging Face Hub.

Knows where models lie; nothing of what is done with them.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopway.checks import not_among
from loopway.errors import ConfigError
from loopway.inference.identity import identity_of
from loopway.modeling.pretrained_folder import PretrainedFolder
from loopway.training.plugins import load_plugins
from loopway.training.run_folder import RunFolder

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainedModel:
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
        return identity_of(self.model, self.tokenizer, self.plugins)


def open_trained(name: str, plugins: Sequence[Path] = (), dtype: str | None = None) -> TrainedModel:
    """Open a run folder, a checkpoint, a model folder or a name on the Hub.

    Args:
        name: which one.
        plugins: Python files that register what the model is made of.
        dtype: `float32`, `bfloat16` or `float16` instead of the precision in which the weights are stored.

    Raises:
        ConfigError: it can't be opened, or there is no such dtype.
    """
    check_dtype(dtype)
    path = Path(name).expanduser()
    if PretrainedFolder(name).is_local:
        name = os.path.normpath(name)
        model, tokenizer = open_model(path, plugins, dtype)
    else:
        load_plugins(plugins)
        model, tokenizer = _open(PretrainedFolder(name), dtype)
    return TrainedModel(name, model.eval(), tokenizer, _run_of(path), plugins)


def look_at_models(names: Iterable[str], plugins: Sequence[Path] = ()) -> None:
    """Raise ConfigError for the first name that is no model's, or whose config can't be read; no weights are read."""
    load_plugins(plugins)
    for name in names:
        folder = PretrainedFolder(name)
        (PretrainedFolder(model_folder(Path(name).expanduser())) if folder.is_local else folder).config()


def check_dtype(dtype: str | None) -> None:
    """Raise ConfigError unless it is None or a precision in which models are opened."""
    if dtype not in (None, *_DTYPES):
        raise not_among("--dtype", dtype, _DTYPES)


def _run_of(path: Path) -> RunFolder | None:
    """The run that a path is, or whose model or checkpoint it is."""
    path = path.resolve()
    places = [path]
    if path == RunFolder(path.parent).model:
        places.append(path.parent)
    if path.parent == RunFolder(path.parent.parent).checkpoints:
        places.append(path.parent.parent)
    return next((RunFolder(place) for place in places if RunFolder(place).config.is_file()), None)


def open_model(
    path: Path | str, plugins: Sequence[Path | str] = (), dtype: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and tokenizer in a run folder, a model folder or a checkpoint, on the GPU where there is one.

    Args:
        plugins: Python files that register what the model is made of. No other code is run, also none that lies in
            the run folder.
        dtype: instead of the precision in which the weights are stored.

    Raises:
        ConfigError: there is no model, or it can't be opened.
    """
    path = Path(path)
    folder = model_folder(path)
    load_plugins(plugins)
    try:
        return _open(PretrainedFolder(folder), dtype)
    except ConfigError as error:
        run = _run_of(path)
        copies = sorted(run.plugins.glob("*.py")) if run else []
        if plugins or not copies:
            raise
        options = " ".join(f"--plugin {copy}" for copy in copies)
        raise ConfigError(
            f"{error}. Its run had plugins, which are not run unasked; if you trust them, add {options}"
        ) from error


def _open(folder: PretrainedFolder, dtype: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    # Not cast once it is open: that would round what is no weight, too, such as rotary frequencies.
    return folder.model(dtype=dtype or "auto"), folder.tokenizer()


def model_folder(path: Path) -> Path:
    """Where the model lies that a run folder, a model folder or a checkpoint stands for. Raises as :func:`open_model`."""
    if not path.is_dir():
        raise ConfigError(f"no folder {path}; give a run folder or a model folder")
    for folder in (RunFolder(path).model, path):
        if (folder / "config.json").is_file():
            return folder
    if RunFolder(path).config.is_file():
        newest, _ = RunFolder(path).newest_checkpoint()
        instead = f", or give {newest}" if newest else ""
        raise ConfigError(f"{path}: the run isn't finished, so there is no model yet; finish it{instead}")
    raise ConfigError(f"{path}: holds no model (no config.json); give a run folder or a model folder")
