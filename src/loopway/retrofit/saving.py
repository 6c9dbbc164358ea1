"""Atomic saving of a model with its tokenizer. Knows nothing of how the model was made."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopway.checks import one_line
from loopway.errors import ConfigError, LoopwayError
from loopway.modeling.pretrained_folder import no_file_bars


def check_free(out: Path) -> None:
    """Raise ConfigError if the folder holds anything."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and isn't empty; choose another folder with --out")


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path, texts: Mapping[str, str]
) -> None:
    """Save weights, config, generation config, tokenizer and text files.

    Raises:
        ConfigError: the folder isn't empty.
        LoopwayError: it can't be written, for example on a full disk; nothing remains of it.
    """
    check_free(out)
    place = out.resolve()
    aside = place.with_name(f".{place.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        with no_file_bars():
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
        for name, text in texts.items():
            (aside / name).write_text(text, encoding="utf-8")
        if place.exists():
            place.rmdir()  # empty
        os.replace(aside, place)
    except Exception as error:  # on a full disk, tokenizers raises nothing more exact
        raise LoopwayError(
            f"{out} can't be written: {one_line(error)}; make room, or choose another folder with --out"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
