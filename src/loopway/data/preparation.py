"""From the text that a data config names to a folder with a tokenizer and token files.

Reads, splits by document, trains or loads the tokenizer, writes ``tokenizer/``, ``train.bin`` + ``.idx``,
``validation.bin`` + ``.idx`` and ``manifest.json``. The folder appears whole or not at all, and is reused as long as
the config and the content of the sources are what its manifest says. Knows nothing of models or runs.
"""

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import PreTrainedTokenizerFast

from loopway.data.config import DataConfig
from loopway.data.packing import samples_per_epoch
from loopway.data.sources import Source, find_sources
from loopway.data.token_file import TokenFile, write_token_file
from loopway.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer
from loopway.errors import DataError

logger = logging.getLogger(__name__)

_FORMAT = 1
_MANIFEST = "manifest.json"
_OF_SAMPLES = {"sequence_length", "mask_documents"}  # decide how samples are cut, not what is in the folder


@dataclass
class PreparedData:
    """What a run needs of its data."""

    tokenizer: PreTrainedTokenizerFast
    train: TokenFile
    validation: TokenFile | None
    manifest: dict[str, Any]

    @property
    def vocab_size(self) -> int:
        """Tokens that the tokenizer really has, the end-of-text token included."""
        return len(self.tokenizer)


def prepare(config: DataConfig, folder: Path | str, *, progress: bool | None = None) -> PreparedData:
    """Prepares the data of ``config`` in ``folder``, or opens it where that is done already.

    ``sequence_length`` and ``mask_documents`` may differ from those of the first preparation: the token files don't
    depend on them. ``progress`` None shows a progress bar if standard error is a terminal.

    Raises :class:`DataError` for text that is missing, unreadable or too short, for a validation set that would be
    empty, and for a folder that holds anything else; nothing is overwritten. Not safe for several processes at once
    on one folder: let one go first.
    """
    folder = Path(folder)
    request = {"format": _FORMAT, "config": config.model_dump(mode="json", exclude=_OF_SAMPLES)}
    train = find_sources(config.train, config.text_field, field="data.train")
    validation = find_sources(config.validation or [], config.text_field, field="data.validation")
    if (folder / _MANIFEST).is_file():
        manifest = _read_manifest(folder)
        _check_same(folder, manifest, request | {"sources": _identities(train, validation)})
    else:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder}: exists and was not prepared by loopway; choose another folder")
        manifest = _build(config, folder, request, train, validation, progress)
    prepared = PreparedData(
        tokenizer=load_tokenizer(str((folder / "tokenizer").absolute())),
        train=TokenFile.open(folder / "train"),
        validation=TokenFile.open(folder / "validation") if manifest["validation"] else None,
        manifest=manifest,
    )
    _check_long_enough(config, prepared.train, prepared.validation)
    return prepared


def split_documents(
    documents: Sequence[str], validation_fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    """(train, validation), each in the order of ``documents``; equal texts always fall on the same side.

    Which texts are set aside depends on the set of texts and the seed alone: those that come first when ordered by a
    hash keyed with the seed. At least one text is set aside unless the fraction is 0. Raises :class:`DataError` if
    nothing would be left for training.
    """
    if validation_fraction == 0:
        return list(documents), []
    distinct = set(documents)
    if len(distinct) < 2:
        raise DataError(
            "data.validation_fraction: the training text is a single document, so the validation set would be empty; "
            "give data.validation, or more documents, or set data.validation_fraction to 0"
        )
    count = min(max(1, round(validation_fraction * len(distinct))), len(distinct) - 1)
    set_aside = set(sorted(distinct, key=lambda text: _keyed_hash(text, seed))[:count])
    return (
        [text for text in documents if text not in set_aside],
        [text for text in documents if text in set_aside],
    )


def _keyed_hash(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{text}".encode()).digest()


def _build(
    config: DataConfig,
    folder: Path,
    request: dict[str, Any],
    train_sources: list[Source],
    validation_sources: list[Source],
    progress: bool | None,
) -> dict[str, Any]:
    """Writes everything to a folder beside the final one and renames it once it is whole; returns the manifest."""
    shown = sys.stderr.isatty() if progress is None else progress
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not shown,
        transient=True,
    )
    partial = folder.with_name(f"{folder.name}.incomplete")
    with bar:
        train = _read(train_sources, bar, "reading training text", "data.train")
        if validation_sources:
            validation = _read(validation_sources, bar, "reading validation text", "data.validation")
            train, left_out = _without(train, set(validation))
        else:
            train, validation = split_documents(train, config.validation_fraction, config.seed)
            left_out = 0
        tokenizer = _tokenizer(config, train, bar)

        shutil.rmtree(partial, ignore_errors=True)  # what an interrupted preparation left
        partial.mkdir(parents=True)
        tokenizer.save_pretrained(partial / "tokenizer")
        halves = {"train": train} | ({"validation": validation} if validation else {})
        files = {}
        for half, texts in halves.items():
            tracked = bar.track(texts, description=f"tokenizing {half} documents")
            files[half] = write_token_file(
                partial / half, encode_documents(tokenizer, tracked), len(tokenizer)
            )
    try:
        _check_long_enough(config, files["train"], files.get("validation"))
    except DataError:
        shutil.rmtree(partial)
        raise

    manifest = request | {
        "sources": _identities(train_sources, validation_sources),
        "tokenizer": {"vocab_size": len(tokenizer), "trained_here": config.tokenizer is None},
        "train": _counts(train, files["train"]),
        "validation": _counts(validation, files["validation"]) if validation else None,
        "left_out_of_training": left_out,
    }
    (partial / _MANIFEST).write_text(
        json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    if folder.exists():
        folder.rmdir()  # empty, as checked; on Windows a rename can't replace it
    partial.rename(folder)
    return manifest


def _read(sources: list[Source], bar: Progress, description: str, field: str) -> list[str]:
    documents = [
        text for source in bar.track(sources, description=description) for text in source.documents()
    ]
    if not documents:
        raise DataError(f"{field}: no documents in {', '.join(source.name for source in sources[:3])}")
    return documents


def _without(train: list[str], validation: set[str]) -> tuple[list[str], int]:
    """The training documents that are not validation documents as well, and how many were."""
    kept = [text for text in train if text not in validation]
    if not kept:
        raise DataError(
            "data.train: every document is also a validation document; nothing is left to train on"
        )
    left_out = len(train) - len(kept)
    if left_out:
        logger.warning("%d training documents are validation documents too and were left out", left_out)
    return kept, left_out


def _tokenizer(config: DataConfig, training_texts: list[str], bar: Progress) -> PreTrainedTokenizerFast:
    if config.tokenizer is not None:
        return load_tokenizer(config.tokenizer)
    texts = bar.track(training_texts, description="training the tokenizer")
    return train_tokenizer(texts, config.vocab_size)


def _check_long_enough(config: DataConfig, train: TokenFile, validation: TokenFile | None) -> None:
    for field, file in (("data.train", train), ("data.validation", validation)):
        if file is not None and samples_per_epoch(file.num_tokens, config.sequence_length) == 0:
            if field == "data.validation" and config.validation is None:
                remedy = "raise data.validation_fraction, set it to 0, "
            else:
                remedy = "give more text "
            raise DataError(
                f"{field}: {file.num_tokens} tokens are fewer than one sample of sequence_length "
                f"{config.sequence_length} + 1; {remedy}or shorten data.sequence_length"
            )


def _identities(train: list[Source], validation: list[Source]) -> dict[str, list[dict[str, Any]]]:
    return {
        "train": [source.identity() for source in train],
        "validation": [source.identity() for source in validation],
    }


def _counts(texts: list[str], file: TokenFile) -> dict[str, int]:
    """``bytes`` is the length of the text in UTF-8, from which bits per byte follow."""
    size = sum(len(text.encode()) for text in texts)
    return {"documents": len(texts), "bytes": size, "tokens": file.num_tokens}


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or "config" not in manifest or "validation" not in manifest:
        raise DataError(f"{path}: not a manifest that loopway wrote; choose another folder")
    return manifest


def _check_same(folder: Path, manifest: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises :class:`DataError` naming the first thing in which the folder differs from what is wanted."""
    advice = "choose another folder, or delete this one"
    if manifest.get("format") != wanted["format"]:
        raise DataError(f"{folder}: prepared by another version of loopway; {advice}")
    for key, value in wanted["config"].items():
        there = manifest["config"].get(key)
        if there != value:
            raise DataError(f"{folder}: was prepared with data.{key} = {there!r}, not {value!r}; {advice}")
    for half, sources in wanted["sources"].items():
        there = manifest["sources"][half]
        if there != sources:
            changed = [
                source["name"]
                for source in [*sources, *there]
                if source not in there or source not in sources
            ]
            name = changed[0] if changed else "order"
            raise DataError(f"{folder}: data.{half} has changed since it was prepared ({name}); {advice}")
