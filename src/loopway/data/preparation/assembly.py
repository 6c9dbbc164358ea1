"""The work of a preparation: a tokenizer, then every source in turn, its documents encoded and put on their side.

A folder holds all that is needed to go on after an interruption. Knows how a prepared folder comes about; not where it
will lie in the end, nor whether there is one already.
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerFast

from loopway.checks import one_line
from loopway.data.beginnings import beginning_of, chosen_beginning, set_beginning
from loopway.data.config import PreparationConfig
from loopway.data.folder import MANIFEST, differing_key
from loopway.data.preparation.checkpoint import Checkpoint
from loopway.data.preparation.documents import Document, Piece, Position, read_documents
from loopway.data.preparation.encoding import Encoded, Encoding, encode_in_order
from loopway.data.preparation.progress import Meter
from loopway.data.preparation.reading import Hash
from loopway.data.preparation.sides import HALVES, Half, Sides, settle
from loopway.data.preparation.sources import FileSource, TextSource
from loopway.data.preparation.splitting import digest_of, new_hash
from loopway.data.preparation.training_texts import TrainingTexts
from loopway.data.tokenizer import fingerprint, load_tokenizer, train_tokenizer, vocabulary_size
from loopway.errors import DataError
from loopway.files import sha256_of, write_atomically

_CHECKPOINT_SECONDS = 10.0


class Assembly:
    """One preparation, from its first document or from a checkpoint.

    Args:
        folder: to work in.
        request: what the result depends on; work begun for another request is not gone on with.
        config: the same, to be read.
        train: sources of training documents.
        validation: sources of validation documents; none: some of the training documents.
        meter: told how far it is.
    """

    def __init__(
        self,
        folder: Path,
        request: dict[str, Any],
        config: PreparationConfig,
        train: Sequence[TextSource],
        validation: Sequence[TextSource],
        meter: Meter,
    ) -> None:
        self.folder = folder
        self.request = request
        self.config = config
        self.train = train
        self.validation = validation
        self.meter = meter
        self._work: list[tuple[Half, TextSource]] = [
            *(("validation", source) for source in validation),
            *(("train", source) for source in train),
        ]
        self._fraction = 0.0 if validation else config.validation_fraction
        self._new_hash = partial(new_hash, config.seed)
        self._request, self._checkpoint = folder / "request.json", folder / "checkpoint.json"
        self._stamps = [[source.name, source.stamp()] for _, source in self._work]

    def run(self, given: PreTrainedTokenizerFast | None, processes: int) -> None:
        """Does all of it, or what is left. With ``given`` None a tokenizer is trained.

        Raises :class:`DataError`; what was done by then is kept if there is a checkpoint.
        """
        if not (self.folder / MANIFEST).exists():
            try:
                self._claim()
                self._make(given, processes)
            except BaseException:
                if not self._checkpoint.exists():
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise
        self._checkpoint.unlink(missing_ok=True)
        self._request.unlink(missing_ok=True)

    def _make(self, given: PreTrainedTokenizerFast | None, processes: int) -> None:
        state = Checkpoint.read(self._checkpoint)
        held_out = self._digests_of_validation()
        tokenizer = self._tokenizer(given, held_out)
        if state.counts is None:
            with closing(self._sides(vocabulary_size(tokenizer), held_out, state)) as sides:
                self._encode(tokenizer, sides, state, processes)
                state.counts = self._finished(sides)
            state.write(self._checkpoint)
        settle(self.folder)
        self._write_manifest(state.counts, tokenizer, processes, is_trained=given is None)

    def _claim(self) -> None:
        """Makes sure that what lies here was begun for this request and this text, and notes the text as it is now."""
        if self._checkpoint.exists():
            claim = json.loads(self._request.read_text(encoding="utf-8"))
            begun, wanted = (
                request["config"]
                | {"tokenizer's content": request["given_tokenizer"], "format": request["format"]}
                for request in (claim["request"], self.request)
            )
            if (key := differing_key(begun, wanted)) is not None:
                raise DataError(
                    f"{self.folder}: holds the beginnings of a preparation with data.{key} = {begun.get(key)!r}, not "
                    f"{wanted.get(key)!r}; go back to that, choose another folder, or delete this one"
                )
            state = Checkpoint.read(self._checkpoint)
            is_begun = state.position != [0, 0] and state.prefix is None  # with a prefix it is read again
            self._check_unchanged(claim["sources"], self._stamps, state.source + is_begun)
        else:
            for path in self.folder.iterdir():
                if path.name != ".lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_atomically(self._request, json.dumps({"request": self.request, "sources": self._stamps}))

    def _check_unchanged(self, before: list[Any], now: list[Any], count: int) -> None:
        """Raises :class:`DataError` if the first ``count`` sources aren't the same ``before`` and ``now``."""
        for number in range(count):
            if now[number : number + 1] != [before[number]]:
                name = before[number][0]
                if name in {name for name, _ in now}:  # else it was removed
                    name = now[number][0]
                raise self._changed(name)

    def _changed(self, name: str) -> DataError:
        return DataError(
            f"{name}: was changed, added or removed after tokens had been made; put it back as it was, or delete "
            f"{self.folder} and begin again"
        )

    def _digests_of_validation(self) -> set[bytes]:
        """Of the validation documents that are given, so that none of them is trained on."""
        return {
            piece.digest or digest_of(record.text, self.config.seed)
            for source in self.validation
            for piece in source.pieces(Position(), self._new_hash)
            for record in read_documents(piece, self.config.text_field)
            if isinstance(record, Document)
        }

    def _tokenizer(
        self, given: PreTrainedTokenizerFast | None, held_out: set[bytes]
    ) -> PreTrainedTokenizerFast:
        folder, config = self.folder / "tokenizer", self.config
        if not self._checkpoint.exists():
            tokenizer = given
            if tokenizer is None:
                self.meter.begin("training the tokenizer", None)
                texts = TrainingTexts(self.train, config.text_field, self._fraction, config.seed, held_out)
                tokenizer = train_tokenizer(texts, config.vocab_size)
            set_beginning(tokenizer, chosen_beginning(tokenizer, config.add_bos_token))
            try:
                tokenizer.save_pretrained(folder)
            except Exception as error:  # of a full disk; tokenizers raises nothing more exact
                raise DataError(f"{folder}: the tokenizer can't be saved: {one_line(error)}") from None
        return load_tokenizer(str(folder.absolute()))

    def _sides(self, vocab_size: int, held_out: set[bytes], state: Checkpoint) -> Sides:
        return Sides(
            self.folder,
            vocab_size,
            fraction=self._fraction,
            held_out=held_out,
            skip_unreadable=self.config.skip_unreadable,
            state=state.sides,
        )

    def _encode(
        self, tokenizer: PreTrainedTokenizerFast, sides: Sides, state: Checkpoint, processes: int
    ) -> None:
        """Encodes every source, from the checkpoint on, and puts what it gives on its side."""
        encoding = Encoding(
            tokenizer=tokenizer.backend_tokenizer.to_str(),
            end_of_text=int(tokenizer.eos_token_id),  # type: ignore[arg-type]
            text_field=self.config.text_field,
            seed=self.config.seed,
            beginning=tuple(beginning_of(tokenizer)),
        )
        with closing(encode_in_order(self._pieces(state), encoding, processes)) as encoded:
            self._write(encoded, sides, state)

    def _pieces(self, state: Checkpoint) -> Iterator[tuple[int, Piece]]:
        """Every piece that is left, with the number of its source."""
        start, first = Position(*state.position or ()), state.source + (state.position is None)
        for number in range(first, len(self._work)):
            for piece in self._work[number][1].pieces(start, self._new_hash):
                yield number, piece
            start = Position()

    def _write(self, encoded: Iterator[tuple[int, Piece, Encoded]], sides: Sides, state: Checkpoint) -> None:
        sizes = [source.size for _, source in self._work]
        self.meter.begin("tokenising", None if None in sizes else sum(size or 0 for size in sizes))
        prefix, saved, is_between = self._digest_so_far(state), time.monotonic(), True
        before = sum(size or 0 for size in sizes[: state.source])
        try:
            for number, piece, documents in encoded:
                is_between = False  # until the state says what the files hold
                text_bytes = sides.take(self._work[number][0], piece, documents)
                if number != state.source:
                    before += sum(size or 0 for size in sizes[state.source : number])
                    state.source, prefix = number, self._new_hash()
                state.position, state.prefix = piece.end and list(piece.end), None
                if piece.kind == "lines":
                    prefix.update(cast(bytes, piece.content))
                    state.prefix = prefix.digest().hex()
                is_between = not sides.inside_document
                self.meter.update(before + piece.progress, text_bytes)
                if is_between and time.monotonic() - saved > _CHECKPOINT_SECONDS:
                    self._save(sides, state)
                    saved = time.monotonic()
            state.source, state.position, state.prefix = len(self._work), [0, 0], None
        finally:
            if is_between and any(writer.documents for writer in sides.writers.values()):
                self._save(sides, state)

    def _save(self, sides: Sides, state: Checkpoint) -> None:
        state.sides = sides.checkpoint()
        state.write(self._checkpoint)

    def _digest_so_far(self, state: Checkpoint) -> Hash:
        """Of what was read of the current source; raises :class:`DataError` if that is no longer what the file holds."""
        prefix = self._new_hash()
        if state.prefix is not None:
            source = self._work[state.source][1]
            assert isinstance(source, FileSource) and state.position is not None
            if source.prefix_digest(state.position[0], prefix).hex() != state.prefix:
                raise self._changed(source.name)
        return prefix

    def _finished(self, sides: Sides) -> dict[str, Any]:
        """What was written; raises :class:`DataError` if a side is empty that must not be."""
        try:
            return self._checked(sides.finish())
        except DataError:
            self._checkpoint.unlink(missing_ok=True)  # nothing to go on with
            raise

    def _write_manifest(
        self,
        counts: dict[str, Any],
        tokenizer: PreTrainedTokenizerFast,
        processes: int,
        *,
        is_trained: bool,
    ) -> None:
        self.meter.begin("hashing the sources", None)
        with ThreadPoolExecutor(processes) as threads:
            identities = list(threads.map(lambda item: item[1].identity(), self._work))
        stamps = [[source.name, source.stamp()] for _, source in self._work]
        self._check_unchanged(self._stamps, stamps, len(stamps))
        for half in HALVES:
            if counts[half]:
                counts[half]["index_sha256"] = sha256_of(self.folder / f"{half}.idx")
        given, beginning = len(self.validation), beginning_of(tokenizer)
        manifest = self.request | {
            "sources": {"train": identities[given:], "validation": identities[:given]},
            "tokenizer": {
                "vocab_size": vocabulary_size(tokenizer),
                "trained_here": is_trained,
                "fingerprint": fingerprint(tokenizer),
                **({"beginning": beginning} if beginning else {}),
            },
            **counts,
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.folder / MANIFEST, text)

    def _checked(self, counts: dict[str, Any]) -> dict[str, Any]:
        for half, sources in (("validation", self.validation), ("train", self.train)):
            if sources and counts[half] is None:
                if counts["left_out"]["duplicates"]:
                    raise DataError(
                        "data.train: every document is also a validation document; nothing is left to train on"
                    )
                names = ", ".join(source.name for source in sources[:3])
                raise DataError(f"data.{half}: no documents in {names}")
        return counts
