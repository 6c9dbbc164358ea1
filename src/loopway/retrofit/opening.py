"""Opens a pretrained model of a supported family, from a folder or the Hugging Face Hub.

What can't be retrofitted is refused before weights are read. transformers starts weights that a checkpoint lacks at random
and goes on; here that is an error. Knows nothing of what becomes of the model.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from loopway.checks import one_line
from loopway.errors import ConfigError, LoopwayError
from loopway.layout import Layout
from loopway.modeling.weights import check_loading
from loopway.retrofit.suitability import check_fits
from loopway.training.callbacks import no_file_bars


def open_pretrained(
    name: str, layout: Layout, dtype: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A family's own model and its tokenizer.

    Args:
        name: a folder, or a name on the Hub.
        layout: that it is to be arranged in.
        dtype: ``float32``, ``bfloat16`` or ``float16`` instead of the precision in which the weights are stored.

    Raises:
        ConfigError: it can't be opened, or files or weights are missing.
        FamilyError, LayoutError: it doesn't fit, see :func:`check_fits`.
    """
    place = Path(name).expanduser()
    is_local = place.exists() or name.startswith((".", "/", "~"))
    source = str(place) if is_local else name
    if is_local:
        _check_folder(place)
    try:
        with no_file_bars(), _no_warnings():
            check_fits(AutoConfig.from_pretrained(source), layout)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype or "auto",
                device_map="cuda" if torch.cuda.is_available() else "cpu",
                output_loading_info=True,
            )
            model, info = loaded
            check_loading(info, name)
            return model, AutoTokenizer.from_pretrained(source)
    except LoopwayError:
        raise
    except Exception as error:  # of several libraries: broken files, no such name, no network, no tokenizer
        where = "" if is_local else " is no folder here, and as a name on the Hugging Face Hub it"
        raise ConfigError(f"{name}{where} can't be opened: {one_line(error)}") from error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Within, transformers doesn't warn: of weights that don't fit, an error tells."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _check_folder(folder: Path) -> None:
    """Raise unless there is a model, all of whose shards are there."""
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder}: holds no model (no config.json); give a model folder or a name on the Hub"
        )
    for index in folder.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            raise ConfigError(f"{index}: is no index of weights; fetch it again") from None
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            raise ConfigError(
                f"{folder}: {len(missing)} of {len(shards)} weight files are missing, the first is {missing[0]}; fetch "
                f"them, {index.name} lists all"
            )
