"""Writing token files, in memory that doesn't grow with them, and going on where an interrupted writer stopped.

While a file is written its document lengths lie in `x.lengths` beside `x.bin`; `x.idx` is made of them at the
end, so that a pair of `.bin` and `.idx` is always whole. Knows nothing of text, tokenizers or when to checkpoint.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from loopway.data.tokens.file import TokenFile
from loopway.data.tokens.index import TokenIndex, map_file, write_index
from loopway.errors import DataError

_LONGEST = 2**31 - 1  # tokens in a document: the format holds lengths as int32
_CHUNK = 2**20  # bytes read at a time


class TokenWriter:
    """Writes `prefix.bin` and `prefix.idx`, one sequence a document.

    Ids take 2 bytes where `vocab_size` allows, else 4. Without `state` a new file is begun, over what may be there.
    With the `state` of a :meth:`checkpoint`, the files are cut back to what they held then, and writing goes on:
    raises :class:`DataError` if they hold less. One writer at a time may have a file open.
    """

    tokens: int
    """Written so far."""
    documents: int
    """Written so far."""

    def __init__(self, prefix: Path | str, vocab_size: int, *, state: dict[str, Any] | None = None) -> None:
        self.prefix = Path(prefix)
        self.vocab_size = vocab_size
        self.dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<i4")
        state = state or {"documents": 0, "tokens": 0, "largest_id": -1}
        self.documents, self.tokens = state["documents"], state["tokens"]
        self._largest_id = state["largest_id"]
        self._part: int | None = None  # tokens of the document that is being written in parts
        self._bin_path, self._lengths_path, self._idx_path = (
            Path(f"{prefix}{suffix}") for suffix in (".bin", ".lengths", ".idx")
        )
        if self.documents:
            self._restore_lengths()
        self._lengths = _open(self._lengths_path, self.documents * 4)
        self._bin = _open(self._bin_path, self.tokens * self.dtype.itemsize)
        self._idx_path.unlink(missing_ok=True)  # of another .bin as soon as this one is written to
        self._sha256 = hashlib.sha256()
        self._bin.seek(0)
        while chunk := self._bin.read(_CHUNK):
            self._sha256.update(chunk)

    def append(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Writes whole documents: their `ids` int[tokens] one after another, and their `lengths` int64[documents].

        Raises :class:`DataError`, and writes nothing, for an id outside the vocabulary and for a document of more than
        2**31 - 1 tokens.
        """
        self._refuse_inside_parts()
        if len(lengths):
            self._check_length(int(lengths.max()))
            if lengths.min() < 0:
                raise ValueError("a document of negative length")
        if lengths.sum() != len(ids):
            raise ValueError(f"{len(ids)} ids for documents of {lengths.sum()} tokens")
        self._write(ids, lengths)
        self._lengths.write(lengths.astype("<i4").tobytes())
        self.documents += len(lengths)

    def append_part(self, ids: np.ndarray, *, last: bool) -> None:
        """Writes a document piece by piece: the next `ids` int[tokens] of it; one sequence in the end.

        Errors as :meth:`append`. Only after a `last` part may anything else follow.
        """
        length = (self._part or 0) + len(ids)
        self._check_length(length)
        self._write(ids, np.array([len(ids)]))
        self._part = None if last else length
        if last:
            self._lengths.write(np.array([length], "<i4").tobytes())
            self.documents += 1

    def checkpoint(self) -> dict[str, Any]:
        """What a later writer needs to go on from here, as JSON; all that was written is on disk when it returns."""
        self._refuse_inside_parts()
        for file in (self._bin, self._lengths):
            file.flush()
            os.fsync(file.fileno())
        return {"documents": self.documents, "tokens": self.tokens, "largest_id": self._largest_id}

    def finish(self) -> dict[str, Any]:
        """Writes the index and closes the file.

        Returns `documents`, `tokens`, `largest_id` (-1 where there are no tokens) and `sha256`, of the
        `.bin`.
        """
        state = self.checkpoint()
        self.close()
        partial = self._idx_path.with_name(f"{self._idx_path.name}.incomplete")
        write_index(partial, self.dtype, map_file(self._lengths_path).view("<i4"))
        partial.replace(self._idx_path)
        self._lengths_path.unlink()
        return state | {"sha256": self._sha256.hexdigest()}

    def close(self) -> None:
        """Closes the files as they are, for a later writer that goes on from a checkpoint. May be called twice."""
        self._bin.close()
        self._lengths.close()

    def _write(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        if len(ids) == 0:
            return
        largest = int(ids.max())
        if ids.min() < 0 or largest >= self.vocab_size:
            at = int(np.argmax((ids < 0) | (ids >= self.vocab_size)))
            document = self.documents + int(np.searchsorted(np.cumsum(lengths), at, side="right"))
            raise DataError(
                f"{self._bin_path}: document {document} has a token id outside 0..{self.vocab_size - 1}: {ids[at]}"
            )
        content = ids.astype(self.dtype).tobytes()
        self._bin.write(content)
        self._sha256.update(content)
        self._largest_id = max(self._largest_id, largest)
        self.tokens += len(ids)

    def _check_length(self, length: int) -> None:
        if length > _LONGEST:
            raise DataError(
                f"{self._bin_path}: a document of {length} tokens; the format allows {_LONGEST}: cut the text in two"
            )

    def _refuse_inside_parts(self) -> None:
        if self._part is not None:
            raise ValueError("a document has been begun in parts; give its last part first")

    def _restore_lengths(self) -> None:
        """A writer that was stopped after finishing, before anyone took note, has put the lengths into its index."""
        if self._lengths_path.exists() or not self._idx_path.exists():
            return
        lengths = TokenIndex(self._idx_path).sizes[: self.documents]
        partial = self._lengths_path.with_name(f"{self._lengths_path.name}.incomplete")
        with partial.open("wb") as file:
            for start in range(0, len(lengths), _CHUNK // 4):
                file.write(lengths[start : start + _CHUNK // 4].tobytes())
        partial.replace(self._lengths_path)


def _open(path: Path, size: int) -> BinaryIO:
    """Opened for reading and writing at its end, cut back to `size` bytes."""
    if size == 0:
        return path.open("w+b")
    held = path.stat().st_size if path.exists() else 0
    if held < size:
        raise DataError(
            f"{path}: {held} bytes, but {size} had been written at the last checkpoint; delete it and start anew"
        )
    file = path.open("r+b")
    file.truncate(size)
    file.seek(size)
    return file


def write_token_file(prefix: Path | str, documents: Iterable[Sequence[int]], vocab_size: int) -> TokenFile:
    """Writes `prefix.bin` and `prefix.idx`, one sequence a document, and opens them.

    Raises :class:`DataError` for an id outside the vocabulary and for no tokens at all.
    """
    with closing(TokenWriter(prefix, vocab_size)) as writer:
        for document in documents:
            writer.append(np.asarray(document, np.int64), np.array([len(document)]))
        writer.finish()
    return TokenFile.open(f"{prefix}.idx")
