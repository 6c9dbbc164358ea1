"""Open a trained model: a run folder, a checkpoint, a model folder, or a name on the Hugging Face Hub.

Knows where models are stored; nothing of how they are used.
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
from loopway.layout import parse_loops
from loopway.modeling.pretrained_folder import PretrainedFolder
from loopway.training.plugins import load_plugins
from loopway.training.run_folder import RunFolder

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainedModel:
    """An open model.

    Attributes:
        name: the name that the user gave.
        run: the run that it comes from, if any.
        plugins: Python files that registered its parts.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    run: RunFolder | None
    plugins: Sequence[Path] = ()

    @property
    def final_of(self) -> RunFolder | None:
        """The finished run whose final model this is; None for a checkpoint and for a model of no run."""
        place = Path(str(self.model.config.name_or_path)).resolve()
        return self.run if self.run and self.run.is_finished and place == self.run.model.resolve() else None

    @cached_property
    def key(self) -> str:
        """A hash of everything that affects its outputs: weights and precision, configs, tokenizer, plugins and code.

        Models with equal keys give equal outputs. Reads all weights.
        """
        return identity_of(self.model, self.tokenizer, self.plugins)


def open_trained(
    name: str, plugins: Sequence[Path] = (), dtype: str | None = None, loops: str | None = None
) -> TrainedModel:
    """Open a run folder, a checkpoint, a model folder or a name on the Hub.

    Args:
        name: its path or its name on the Hub.
        plugins: Python files that register the model's parts, such as its recurrence.
        dtype: `float32`, `bfloat16` or `float16`; None means the precision of the stored weights.
        loops: loops of every call, as :func:`loopway.layout.parse_loops` reads them; None means the model's own. A model
            without loops, such as a vanilla one, keeps its depth.

    Raises:
        ConfigError: it can't be opened, or the dtype is unknown.
        LayoutError: the model has no such loops.
    """
    check_dtype(dtype)
    path = Path(name).expanduser()
    if PretrainedFolder(name).is_local:
        name = os.path.normpath(name)
        model, tokenizer = open_model(path, plugins, dtype, loops)
    else:
        load_plugins(plugins)
        model, tokenizer = _open(PretrainedFolder(name), dtype, loops)
    return TrainedModel(name, model.eval(), tokenizer, _run_of(path), plugins)


def look_at_models(names: Iterable[str], plugins: Sequence[Path] = ()) -> None:
    """Validate that each name is a model with a readable config, without reading weights.

    Raises:
        ConfigError: for the first name that isn't.
    """
    load_plugins(plugins)
    for name in names:
        folder = PretrainedFolder(name)
        (PretrainedFolder(model_folder(Path(name).expanduser())) if folder.is_local else folder).config()


def check_dtype(dtype: str | None) -> None:
    """Validate a dtype: None, or a precision that models can be opened in.

    Raises:
        ConfigError: another dtype.
    """
    if dtype not in (None, *_DTYPES):
        raise not_among("--dtype", dtype, _DTYPES)


def _run_of(path: Path) -> RunFolder | None:
    """Return the run that a path is, or that its model or checkpoint belongs to."""
    path = path.resolve()
    places = [path]
    if path == RunFolder(path.parent).model:
        places.append(path.parent)
    if path.parent == RunFolder(path.parent.parent).checkpoints:
        places.append(path.parent.parent)
    return next((RunFolder(place) for place in places if RunFolder(place).config.is_file()), None)


def open_model(
    path: Path | str,
    plugins: Sequence[Path | str] = (),
    dtype: str | None = None,
    loops: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model and tokenizer of a run folder, a model folder or a checkpoint, on the GPU if there is one.

    Args:
        path: the folder.
        plugins: Python files that register the model's parts. No other code is run, not even code in the run folder.
        dtype, loops: as in :func:`open_trained`.

    Raises:
        ConfigError: there is no model, or it can't be opened.
    """
    path = Path(path)
    folder = model_folder(path)
    load_plugins(plugins)
    try:
        return _open(PretrainedFolder(folder), dtype, loops)
    except ConfigError as error:
        run = _run_of(path)
        copies = sorted(run.plugins.glob("*.py")) if run else []
        if plugins or not copies:
            raise
        options = " ".join(f"--plugin {copy}" for copy in copies)
        raise ConfigError(
            f"{error}. Its run had plugins, which are not run unasked; if you trust them, add {options}"
        ) from error


def _open(
    folder: PretrainedFolder, dtype: str | None, loops: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    # Load in this precision instead of casting afterwards, which would also round buffers such as rotary frequencies.
    counts = None if loops is None else parse_loops(loops)
    model = folder.model(dtype=dtype or "auto")
    if counts is not None and getattr(model.config, "layout", None) and model.config.parsed_layout.is_looped:
        model.config.loops = counts
    return model, folder.tokenizer()


def model_folder(path: Path) -> Path:
    """Return the folder that holds the model of a run folder, a model folder or a checkpoint.

    Raises:
        ConfigError: as :func:`open_model`.
    """
    if not path.is_dir():
        raise ConfigError(f"no folder {path}; give a run folder or a model folder")
    for folder in (RunFolder(path).model, path):
        if (folder / "config.json").is_file():
            return folder
    if RunFolder(path).config.is_file():
        newest, _ = RunFolder(path).newest_checkpoint()
        instead = f", or give {newest}" if newest else ""
        raise ConfigError(f"{path}: the run isn't finished and has no model yet; finish it{instead}")
    raise ConfigError(f"{path}: holds no model (no config.json); give a run folder or a model folder")
