"""Assign documents to training or validation, or omit them.

With validation text given, training documents that are also validation documents are omitted. Otherwise a share of the
training documents is held out: those whose digest, read as a number, is below a threshold. Equal texts therefore stay
together, and the order and number of documents have no effect. Knows finished units; nothing of how they are made.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from loopway.data.folder import LEFT_OUT
from loopway.data.preparation.documents import place_of
from loopway.data.preparation.units import Unit
from loopway.data.tokens.writer import TokenWriter
from loopway.errors import DataError

SPLITS = ("train", "validation")


def for_validation(keys: np.ndarray, fraction: float) -> np.ndarray:
    """Return which documents are held out, bool[documents]; `keys` are first halves of digests, uint64[documents]."""
    return keys < np.uint64(fraction * 2.0**64)


class SplitWriter:
    """Writes ``train`` and ``validation`` token files and ``left_out.jsonl`` into a folder, from units in order.

    ``fraction`` of the training documents is held out; 0 if validation text is given. With ``skip_unreadable``,
    unreadable records are listed instead of raising an error.
    """

    def __init__(self, folder: Path, vocab_size: int, *, fraction: float, skip_unreadable: bool) -> None:
        self.folder, self.fraction, self.skip_unreadable = folder, fraction, skip_unreadable
        self.left_out = {"duplicates": 0, "unreadable": 0}
        self.text_bytes: dict[str, int] = dict.fromkeys(SPLITS, 0)
        self._given: set[bytes] = set()  # digests of the given validation documents
        self._writers = {name: TokenWriter(folder / name, vocab_size) for name in SPLITS}
        self._list = (folder / LEFT_OUT).open("w", encoding="utf-8")

    def take(self, unit: Unit) -> int:
        """Write the documents of a unit. Units of validation text must come before those of training text.

        Returns:
            The bytes of text in the unit.

        Raises:
            DataError: a record can't be read.
        """
        for record, reason in unit.marker["unreadable"]:
            if not self.skip_unreadable:
                unit.path.unlink()
                raise DataError(f"{reason} (data.skip_unreadable: true skips unreadable records)")
            self._leave_out("unreadable", record, reason)
        ids, documents = unit.load()
        kept, validation = np.ones(len(documents), bool), np.full(len(documents), unit.split == "validation")
        if unit.split == "validation":
            self._given.update(map(bytes, documents["digest"]))
        elif self._given:
            kept = np.array([bytes(digest) not in self._given for digest in documents["digest"]], bool)
        else:
            validation = for_validation(documents["digest"][:, 0], self.fraction)
        for document in documents[~kept] if unit.marker["ends"] else ():
            source, kind = unit.marker["sources"][document["source"]]
            place = place_of(source, kind, document["number"])
            self._leave_out("duplicates", place, "is a validation document")
        for split, chosen in (("train", kept & ~validation), ("validation", kept & validation)):
            if chosen.any():
                lengths = documents["tokens"]
                of_split = ids if chosen.all() else ids[np.repeat(chosen, lengths)]
                self._writers[split].append(of_split, lengths[chosen], ends=unit.marker["ends"])
                self.text_bytes[split] += int(documents["text_bytes"][chosen].sum())
        return int(documents["text_bytes"].sum())

    def finish(self) -> dict[str, Any]:
        """Write the indexes; return each split's counts (None without documents) and the counts of omitted records."""
        counts: dict[str, Any] = {"left_out": self.left_out}
        for name, writer in self._writers.items():
            counts[name] = writer.finish() | {"bytes": self.text_bytes[name]}
            if not writer.documents:
                counts[name] = None
                for suffix in (".bin", ".idx"):
                    (self.folder / f"{name}{suffix}").unlink()
        self.close()
        if not any(self.left_out.values()):
            (self.folder / LEFT_OUT).unlink()
        return counts

    def close(self) -> None:
        """Close the files in their present state."""
        for file in (*self._writers.values(), self._list):
            file.close()

    def _leave_out(self, why: str, record: str, reason: str) -> None:
        self.left_out[why] += 1
        self._list.write(json.dumps({"record": record, "why": reason}, ensure_ascii=False) + "\n")
