"""The steps of a preparation: the tokenizer, then every unit of the text, then the token files and the manifest.

A folder holds all that is needed to resume. Knows nothing of the folder's final place, or of an existing one there.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from loopway.checks import one_line
from loopway.data.beginnings import beginning_of, chosen_beginning, set_beginning
from loopway.data.config import PreparationConfig
from loopway.data.folder import FORMAT, MANIFEST
from loopway.data.preparation.documents import Document, digest_of, read_documents
from loopway.data.preparation.encoding import Encoding
from loopway.data.preparation.progress import Meter
from loopway.data.preparation.sources import TextSource
from loopway.data.preparation.split import SPLITS, SplitWriter
from loopway.data.preparation.training_texts import training_texts
from loopway.data.preparation.units import finished_units, short_hash
from loopway.data.tokenizer import fingerprint, load_tokenizer, train_tokenizer, vocabulary_size
from loopway.errors import DataError
from loopway.files import sha256_of, write_atomically

logger = logging.getLogger(__name__)

SINGLE_DOCUMENT = (
    "data.validation_fraction: the training text is a single document, so the validation set would be empty; give "
    "data.validation, or more documents, or set data.validation_fraction to 0"
)


def request_of(config: PreparationConfig, given: PreTrainedTokenizerFast | None) -> dict[str, Any]:
    """Return everything that a prepared folder depends on, except the content of its sources."""
    # skip_unreadable has no effect without unreadable records, and may be set after the first one.
    fields = config.model_dump(mode="json", exclude={"skip_unreadable"})
    if config.add_bos_token is None:  # equal to requests from before this key existed
        del fields["add_bos_token"]
    return {
        "format": FORMAT,
        "config": fields,
        "given_tokenizer": fingerprint(given) if given is not None else None,
    }


class Assembly:
    """One preparation in a folder, from training text and validation text.

    Without validation text, some training documents are held out. Without a ``given`` tokenizer, one is trained. The
    meter shows progress.
    """

    def __init__(
        self,
        folder: Path,
        config: PreparationConfig,
        train: Sequence[TextSource],
        validation: Sequence[TextSource],
        given: PreTrainedTokenizerFast | None,
        meter: Meter,
    ) -> None:
        self.folder, self.config, self.given, self.meter = folder, config, given, meter
        self.sources = {"validation": validation, "train": train}  # in processing order
        self._fraction = 0.0 if validation else config.validation_fraction
        self._request = request_of(config, given)
        self._units = folder / "units"

    def run(self, processes: int) -> None:
        """Run or resume the preparation. On an error, finished units are kept.

        Raises:
            DataError: the text is unreadable, or a split is empty.
        """
        if not (self.folder / MANIFEST).exists():
            self._clear()
            try:
                stamps = self._stamps()
                tokenizer = self._tokenizer(stamps)
                counts = self._write_tokens(tokenizer, processes)
                self._write_manifest(counts, tokenizer, stamps, processes)
            except BaseException:
                if not any(self._units.glob("*.json")):
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise
        shutil.rmtree(self._units, ignore_errors=True)

    def _clear(self) -> None:
        """Remove everything except finished units, such as work of an earlier version."""
        if (self.folder / "checkpoint.json").exists():
            logger.warning(
                "%s: was begun by an earlier version of Loopway; it restarts from the beginning", self.folder
            )
        for path in self.folder.iterdir():
            if path.name not in (".lock", self._units.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._units.mkdir(exist_ok=True)

    def _stamps(self) -> list[tuple[str, Any]]:
        return [(source.name, source.stamp()) for sources in self.sources.values() for source in sources]

    def _tokenizer(self, stamps: list[tuple[str, Any]]) -> PreTrainedTokenizerFast:
        """Return the given tokenizer, or train one. The trained one is kept until the request or the text changes."""
        folder, trained = self.folder / "tokenizer", self._units / short_hash([self._request, stamps])
        if self.given is None and trained.exists():
            shutil.copytree(trained, folder)
            return load_tokenizer(str(folder.absolute()))
        tokenizer = self.given if self.given is not None else self._train_tokenizer()
        set_beginning(tokenizer, chosen_beginning(tokenizer, self.config.add_bos_token))
        try:
            tokenizer.save_pretrained(folder)
        except Exception as error:  # e.g. a full disk; tokenizers raises no specific type
            raise DataError(f"{folder}: the tokenizer can't be saved: {one_line(error)}") from None
        if self.given is None:
            shutil.copytree(folder, partial := trained.with_suffix(".partial"), dirs_exist_ok=True)
            partial.rename(trained)
        return load_tokenizer(str(folder.absolute()))

    def _train_tokenizer(self) -> PreTrainedTokenizerFast:
        self.meter.begin("training the tokenizer", None)
        config, seed = self.config, self.config.seed
        validation = {
            piece.digest or digest_of(record.text, seed)
            for source in self.sources["validation"]
            for piece in source.pieces(seed=seed)
            for record in read_documents(piece, config.text_field)
            if isinstance(record, Document)
        }
        texts = training_texts(self.sources["train"], config.text_field, self._fraction, seed, validation)
        return train_tokenizer(texts, config.vocab_size)

    def _write_tokens(self, tokenizer: PreTrainedTokenizerFast, processes: int) -> dict[str, Any]:
        """Encode all units that aren't finished, and write every document to its split; return the splits' counts."""
        config = self.config
        encoding = Encoding(
            tokenizer=tokenizer.backend_tokenizer.to_str(),
            end_of_text=int(tokenizer.eos_token_id),  # type: ignore[arg-type]
            text_field=config.text_field,
            seed=config.seed,
            beginning=tuple(beginning_of(tokenizer)),
        )
        sizes = [source.size for sources in self.sources.values() for source in sources]
        self.meter.begin("tokenising", None if None in sizes else sum(size or 0 for size in sizes))
        options = {"fraction": self._fraction, "skip_unreadable": config.skip_unreadable}
        writer = SplitWriter(self.folder, vocabulary_size(tokenizer), **options)
        units = finished_units(self.sources, self._units, encoding, processes)
        with closing(writer), closing(units):
            for unit in units:
                text_bytes = writer.take(unit)
                self.meter.update(unit.before + unit.marker["read"], text_bytes if unit.pieces else 0)
            counts = writer.finish()
        try:
            self._check_splits(counts)
        except DataError:
            shutil.rmtree(self._units)  # nothing to resume
            raise
        return counts

    def _check_splits(self, counts: dict[str, Any]) -> None:
        """Raise :class:`DataError` if a required split is empty."""
        empty = [name for name in SPLITS if counts[name] is None]
        if not empty or (empty == ["validation"] and not self.sources["validation"] and not self._fraction):
            return
        if empty == ["train"] and counts["left_out"]["duplicates"]:
            raise DataError(
                "data.train: every document is also a validation document; nothing is left to train on"
            )
        if self._fraction and len(empty) == 1:
            (full,) = {*SPLITS} - {*empty}
            if empty == ["validation"] and counts[full]["documents"] == 1:
                raise DataError(SINGLE_DOCUMENT)
            raise DataError(
                f"data.validation_fraction: {self._fraction} leaves the {empty[0]} set empty ({full} has all of "
                f"{counts[full]['documents']:,} documents); give more documents, another fraction, or data.validation"
            )
        names = ", ".join(source.name for source in self.sources[empty[0]][:3])
        raise DataError(f"data.{empty[0]}: no documents in {names}")

    def _write_manifest(
        self, counts: dict[str, Any], tokenizer: PreTrainedTokenizerFast, stamps: list[Any], processes: int
    ) -> None:
        self.meter.begin("hashing the sources", None)
        with ThreadPoolExecutor(processes) as threads:
            identities = {
                split: list(threads.map(lambda source: source.identity(), self.sources[split]))
                for split in SPLITS
            }
        for before, now in zip(stamps, self._stamps(), strict=True):
            if before != now:
                raise DataError(
                    f"{now[0]}: was changed while it was read; rerun the same command to read it again"
                )
        for split in SPLITS:
            if counts[split]:
                counts[split]["index_sha256"] = sha256_of(self.folder / f"{split}.idx")
        beginning = beginning_of(tokenizer)
        manifest = self._request | {
            "sources": identities,
            "tokenizer": {
                "vocab_size": vocabulary_size(tokenizer),
                "trained_here": self.given is None,
                "fingerprint": fingerprint(tokenizer),
                **({"beginning": beginning} if beginning else {}),
            },
            **counts,
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.folder / MANIFEST, text)
