"""The two sides of a preparation, training and validation: which documents go where, and what is left out.

With validation text given, a training document that is a validation document too is left out. Otherwise some training
documents are set aside. Either way no text is on both sides. Knows encoded documents; nothing of sources, tokenizers
and of when to checkpoint.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from loopway.data.folder import LEFT_OUT
from loopway.data.preparation.checkpoint import LineFile
from loopway.data.preparation.documents import Piece, place_of
from loopway.data.preparation.encoding import Encoded
from loopway.data.preparation.splitting import DIGEST_BYTES, Extremes, keys_of, set_aside
from loopway.data.tokens.file import TokenFile
from loopway.data.tokens.writer import TokenWriter
from loopway.errors import DataError

Half = Literal["train", "validation"]
HALVES: tuple[Half, Half] = ("train", "validation")
SINGLE_DOCUMENT = (
    "data.validation_fraction: the training text is a single document, so the validation set would be empty; "
    "give data.validation, or more documents, or set data.validation_fraction to 0"
)
_CHUNK = 2**20  # tokens of a document that are moved at a time
_REST = ".rest"  # of a half from which documents were moved


class Sides:
    """Writes ``train`` and ``validation`` token files and ``left_out.jsonl`` into a folder.

    Args:
        folder: where.
        vocab_size: of the tokenizer.
        fraction: of the training documents that is set aside; 0 where validation text is given.
        held_out: digests of the validation text that is given.
        skip_unreadable: list what can't be read instead of raising.
        state: of a :meth:`checkpoint` to go on from.
    """

    def __init__(
        self,
        folder: Path,
        vocab_size: int,
        *,
        fraction: float,
        held_out: Collection[bytes],
        skip_unreadable: bool,
        state: dict[str, Any],
    ) -> None:
        self.folder = folder
        self.vocab_size = vocab_size
        self.fraction = fraction
        self.held_out = held_out
        self.skip_unreadable = skip_unreadable
        self.writers = {
            half: TokenWriter(folder / half, vocab_size, state=state.get("writers", {}).get(half))
            for half in HALVES
        }
        self._left_out = LineFile(folder / LEFT_OUT, state.get("left_out_bytes", 0))
        self.text_bytes: dict[str, int] = state.get("text_bytes", dict.fromkeys(HALVES, 0))
        self.left_out: dict[str, int] = state.get("left_out", {"duplicates": 0, "unreadable": 0})
        extremes = state.get("extremes", {})
        self._extremes = {  # what would be moved from here, were the other side empty
            "train": Extremes(1, *extremes.get("train", ())),
            "validation": Extremes(-1, *extremes.get("validation", ())),
        }
        self._bytes_of_parts = 0
        self.inside_document = False
        """Whether the last piece was a part of a document that goes on: no moment for a checkpoint."""

    def take(self, half: Half, piece: Piece, encoded: Encoded) -> int:
        """Writes the documents of a piece to their sides; returns the bytes of text among them.

        Raises :class:`DataError`, before anything of the piece is written, for a record that can't be read.
        """
        if encoded.unreadable and not self.skip_unreadable:
            reason = encoded.unreadable[0].reason
            raise DataError(f"{reason} (data.skip_unreadable: true leaves out what can't be read)")
        for record in encoded.unreadable:
            self.left_out["unreadable"] += 1
            self._left_out.append({"record": place_of(piece, record.number), "why": record.reason})
        self.inside_document = piece.kind == "part" and not piece.is_last
        keys = keys_of(encoded.digests)
        kept = np.ones(len(keys), dtype=bool)
        aside = np.full(len(keys), half == "validation")
        if half == "train" and self.held_out:
            kept = self._not_held_out(piece, encoded)
        elif half == "train" and self.fraction:
            aside = set_aside(keys, self.fraction)
        self._write("train", piece, encoded, kept & ~aside)
        self._write("validation", piece, encoded, kept & aside)
        return int(encoded.text_bytes.sum())

    def checkpoint(self) -> dict[str, Any]:
        """What a later one needs to go on from here; all that was taken is on disk when it returns."""
        return {
            "writers": {half: writer.checkpoint() for half, writer in self.writers.items()},
            "left_out_bytes": self._left_out.checkpoint(),
            "text_bytes": self.text_bytes,
            "left_out": self.left_out,
            "extremes": {
                half: [extremes.key, extremes.documents, extremes.text_bytes]
                for half, extremes in self._extremes.items()
            },
        }

    def finish(self) -> dict[str, Any]:
        """Writes the indexes; for each half its counts, or None where it is empty. Then :func:`settle` is to be called.

        If chance set nothing aside, or everything, the document nearest to the border is moved, with its copies.
        Raises :class:`DataError` if all documents are alike, since one side would stay empty.
        """
        for path in self.folder.glob(f"*{_REST}.*"):  # of an interrupted move
            path.unlink()
        counts = {half: writer.finish() for half, writer in self.writers.items()}
        self.close()
        for empty, full in (HALVES, HALVES[::-1]):
            if self.fraction and not counts[empty]["documents"] and counts[full]["documents"]:
                counts |= self._move(full, empty)
        if not any(self.left_out.values()):
            (self.folder / LEFT_OUT).unlink()
        result: dict[str, Any] = {"left_out": self.left_out}
        for half in HALVES:
            result[half] = counts[half] | {"bytes": self.text_bytes[half]}
            if not counts[half]["documents"]:
                result[half] = None
                for suffix in (".bin", ".idx"):
                    (self.folder / f"{half}{suffix}").unlink()
        return result

    def close(self) -> None:
        """Closes the files as they are."""
        for file in (*self.writers.values(), self._left_out):
            file.close()

    def _not_held_out(self, piece: Piece, encoded: Encoded) -> np.ndarray:
        """bool[documents]; those that are left out are listed."""
        digests = encoded.digests
        kept = np.array(
            [
                digests[at : at + DIGEST_BYTES] not in self.held_out
                for at in range(0, len(digests), DIGEST_BYTES)
            ],
            dtype=bool,
        )
        if not self.inside_document:
            for number in encoded.numbers[~kept]:
                self.left_out["duplicates"] += 1
                self._left_out.append({"record": place_of(piece, number), "why": "is a validation document"})
        return kept

    def _write(self, half: Half, piece: Piece, encoded: Encoded, chosen: np.ndarray) -> None:
        if not chosen.any():
            return
        writer, lengths, text_bytes = self.writers[half], encoded.lengths, encoded.text_bytes
        self.text_bytes[half] += int(text_bytes[chosen].sum())
        if piece.kind == "part":
            text_bytes = text_bytes + self._bytes_of_parts
            self._bytes_of_parts = 0 if piece.is_last else int(text_bytes[0])
        if not self.inside_document:
            self._extremes[half].add(keys_of(encoded.digests)[chosen], text_bytes[chosen], writer.documents)
        if piece.kind == "part":
            writer.append_part(encoded.ids, last=piece.is_last)
        elif chosen.all():
            writer.append(encoded.ids, lengths)
        else:
            writer.append(encoded.ids[np.repeat(chosen, lengths)], lengths[chosen])

    def _move(self, full: Half, empty: Half) -> dict[str, Any]:
        """Moves the documents at the border of the side that has all of them to the one that has none."""
        extremes, file = self._extremes[full], TokenFile.open(self.folder / full)
        moved = set(extremes.documents)
        if len(moved) == file.num_documents:
            raise DataError(SINGLE_DOCUMENT)
        aside = self.folder / f"{full}{_REST}"
        writers = {
            full: TokenWriter(aside, self.vocab_size),
            empty: TokenWriter(self.folder / empty, self.vocab_size),
        }
        for number, ids in enumerate(file.documents()):
            writer = writers[empty if number in moved else full]
            for start in range(0, len(ids), _CHUNK):
                writer.append_part(ids[start : start + _CHUNK], last=start + _CHUNK >= len(ids))
        self.text_bytes[empty] = extremes.text_bytes * len(moved)
        self.text_bytes[full] -= self.text_bytes[empty]
        return {half: writer.finish() for half, writer in writers.items()}


def settle(folder: Path) -> None:
    """Puts what :meth:`Sides.finish` left aside into its place. No checkpoint of before can be gone on with then."""
    for path in folder.glob(f"*{_REST}.*"):
        path.replace(path.with_name(path.name.replace(_REST, "")))
