"""A model with its tokenizer in a folder that is whole or not there. Knows nothing of how the model came about."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopway.errors import ConfigError
from loopway.modeling.opening import no_file_bars


def check_free(out: Path) -> None:
    """Raise ConfigError if the folder holds anything."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and isn't empty; choose another folder with --out")


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path, texts: Mapping[str, str]
) -> None:
    """Weights, config, generation config and tokenizer, and files of these names and texts.

    Raises:
        ConfigError: the folder holds something already.
    """
    check_free(out)
    place = out.resolve()
    aside = place.with_name(f".{place.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with no_file_bars():
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
        for name, text in texts.items():
            (aside / name).write_text(text, encoding="utf-8")
        if place.exists():
            place.rmdir()  # empty
        os.replace(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
