"""Read and write the `.idx` of a token file: the positions of sequences and documents in the `.bin`.

Little-endian: 9 bytes magic, u64 version, u8 dtype code, u64 number of sequences N, u64 number of document entries D,
i32 sizes[N] in tokens, i64 pointers[N] in bytes, i64 documents[D]: the first sequence of each document, then N. Some
writers omit the final N; the remaining sequences then form one more document.

An index may have hundreds of millions of entries. It is memory-mapped and read whole only on request. Entries not
checked on opening are checked on use. Knows nothing of the `.bin` but its dtype, and nothing of the tokens' meaning.
"""

import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from loopway.errors import DataError

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_FLOATS = (6, 7)
_SPOTS = 4096  # neighbours compared on opening
_CHUNK = 2**18  # entries read or written at a time
_NEGATIVE = "a sequence of negative length"
_SCATTERED = "sequences do not follow one another in the .bin file"
_UNORDERED = "the document index must rise from 0 to the number of sequences"


def map_file(path: Path) -> np.ndarray:
    """Memory-map a file and return it as a read-only array, uint8[bytes]; slices faster than `numpy.memmap`."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:  # empty files can't be mapped
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def mapped_size(content: np.ndarray) -> int:
    """Return the present size in bytes of the file mapped as ``content`` by :func:`map_file`.

    If the file was truncated, reading beyond its end would kill the process.
    """
    return content.base.obj.size() if len(content) else 0  # type: ignore[union-attr]  (of a memoryview)


class TokenIndex:
    """An open `.idx`.

    Opening checks the header, the exact file size, the first and last entries, and that neighbouring entries are
    consecutive at up to 4,096 evenly spread places; :meth:`verify` checks the rest.

    Raises:
        DataError: a check failed; also in methods that use an entry which points outside the `.bin`.
    """

    dtype: np.dtype
    """Type of the ids in the `.bin`: a little-endian integer."""
    num_bytes: int
    """Length of the `.bin` that the index describes."""
    num_documents: int
    content: np.ndarray
    """uint8[bytes], memory-mapped: the whole file."""
    sizes: np.ndarray
    """int32[sequences], in tokens, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = self.content = map_file(path)
        self.dtype, sequences, entries = _read_header(path, content)
        offset = _HEADER.size
        self.sizes = content[offset : (offset := offset + 4 * sequences)].view("<i4")
        self._pointers = content[offset : (offset := offset + 8 * sequences)].view("<i8")
        self._documents = content[offset:].view("<i8")
        self._require(entries > 0 and self._documents[0] == 0, _UNORDERED)
        self._check(_spots(sequences - 1), _spots(entries - 1))
        last = int(self._documents[-1])
        self._require(last <= sequences, _UNORDERED)
        self.num_documents = entries if last < sequences else entries - 1
        self.num_bytes = 0
        if sequences:
            self._require(self.sizes[-1] >= 0, _NEGATIVE)
            self.num_bytes = int(self._pointers[-1]) + int(self.sizes[-1]) * self.dtype.itemsize
            self._require(self._pointers[0] == 0 and self.num_bytes % self.dtype.itemsize == 0, _SCATTERED)

    def sequence(self, index: int) -> tuple[int, int]:
        """Return start and stop of a sequence, in tokens from the beginning of the `.bin`.

        Raises:
            IndexError: there is no such sequence.
            DataError: the index is damaged there.
        """
        if not 0 <= index < len(self.sizes):
            raise IndexError(f"sequence {index} of {len(self.sizes)} in {self.path}")
        start, size, itemsize = int(self._pointers[index]), int(self.sizes[index]), self.dtype.itemsize
        self._require(size >= 0, _NEGATIVE)
        is_inside = start % itemsize == 0 and 0 <= start <= self.num_bytes - size * itemsize
        self._require(is_inside, f"sequence {index} lies outside the .bin file")
        return start // itemsize, start // itemsize + size

    def document_begins(self, start: int, stop: int) -> np.ndarray:
        """Return the positions p, `start` <= p < `stop`, in tokens, at which a document begins: int64[...], increasing."""
        itemsize = self.dtype.itemsize
        first = bisect_left(self._pointers, start * itemsize)
        last = bisect_left(self._pointers, stop * itemsize, lo=first)
        from_ = bisect_left(self._documents, first)
        to = bisect_left(self._documents, last, lo=from_)
        begins = self._positions(from_, to)
        self._require(not begins.size or start <= begins[0] <= begins[-1] < stop, _UNORDERED)
        return begins[np.diff(begins, prepend=-1) > 0]  # empty documents begin where the next one does

    def document_lengths(self) -> np.ndarray:
        """Return the length of each document in tokens, int64[documents]. Reads the whole index into memory."""
        begins = self._positions(0, self.num_documents)
        lengths = np.diff(begins, append=self.num_bytes // self.dtype.itemsize)
        self._require((lengths >= 0).all(), _SCATTERED)
        return lengths

    def verify(self) -> None:
        """Check the whole index, in bounded memory.

        Raises:
            DataError: the index is inconsistent.
        """
        sequence_pairs, document_pairs = len(self.sizes) - 1, len(self._documents) - 1
        for start in range(0, max(sequence_pairs, document_pairs), _CHUNK):
            stop = start + _CHUNK
            self._check(
                np.arange(start, min(stop, sequence_pairs)), np.arange(start, min(stop, document_pairs))
            )

    def _check(self, sequences: np.ndarray, entries: np.ndarray) -> None:
        """Raise unless each given sequence and document entry, int64[...], is consistent with its successor."""
        sizes = self.sizes[sequences].astype(np.int64)
        self._require((sizes >= 0).all(), _NEGATIVE)
        ends = self._pointers[sequences] + sizes * self.dtype.itemsize
        self._require((ends == self._pointers[sequences + 1]).all(), _SCATTERED)
        here, after = self._documents[entries], self._documents[entries + 1]
        self._require(((here >= 0) & (here <= after) & (after <= len(self.sizes))).all(), _UNORDERED)

    def _positions(self, start: int, stop: int) -> np.ndarray:
        """Return where documents `start` to `stop` begin, in tokens, int64[stop - start], non-decreasing."""
        firsts = np.asarray(self._documents[start:stop], np.int64)
        count = len(self.sizes)
        self._require(((firsts >= 0) & (firsts <= count)).all(), _UNORDERED)
        # a document that begins at the sequence after the last is empty and begins at the end
        ends = np.full(len(firsts), self.num_bytes, np.int64)
        ends[firsts < count] = self._pointers[firsts[firsts < count]]
        self._require((ends % self.dtype.itemsize == 0).all() and (np.diff(ends) >= 0).all(), _SCATTERED)
        return ends // self.dtype.itemsize

    def _require(self, holds: Any, otherwise: str) -> None:
        if not holds:
            raise DataError(f"{self.path}: damaged: {otherwise}")


def _read_header(path: Path, content: np.ndarray) -> tuple[np.dtype, int, int]:
    """Return dtype and the numbers of sequences and document entries, after comparing them with the file size."""
    if len(content) < _HEADER.size:
        raise DataError(f"{path}: truncated: {len(content)} bytes; the header alone has {_HEADER.size}")
    magic, version, code, sequences, entries = _HEADER.unpack(content[: _HEADER.size].tobytes())
    if magic != _MAGIC:
        raise DataError(f"{path}: not the index of a token file (it begins with {magic!r}, not {_MAGIC!r})")
    if version != _VERSION:
        raise DataError(f"{path}: version {version} of the format; only {_VERSION} is known")
    if code not in _DTYPES:
        allowed = ", ".join(f"{known} ({np.dtype(name).name})" for known, name in _DTYPES.items())
        what = "a float (which one depends on the writer)" if code in _FLOATS else "unknown"
        raise DataError(f"{path}: dtype code {code} is {what}; token ids are integers: {allowed}")
    expected = _HEADER.size + (4 + 8) * sequences + 8 * entries  # Python integers: huge counts don't overflow
    if len(content) != expected:
        raise DataError(
            f"{path}: truncated or damaged: {len(content)} bytes, but {sequences} sequences and {entries} document "
            f"entries take {expected}"
        )
    return np.dtype(_DTYPES[code]), sequences, entries


def _spots(pairs: int) -> np.ndarray:
    """Return up to 4,096 indices evenly spread over 0..pairs - 1, int64; all of them if there are fewer."""
    count = min(pairs, _SPOTS)
    return np.arange(count) * pairs // max(count, 1)


def write_index(path: Path, dtype: np.dtype, lengths: np.ndarray) -> None:
    """Write the index of documents with one sequence each, and sync it to disk.

    Memory doesn't grow with the number of documents, since `lengths` may be a memory map.

    Args:
        path: the `.idx` file.
        dtype: type of the ids, uint16 or int32.
        lengths: length of each document in tokens, int32[documents].
    """
    code = next(code for code, name in _DTYPES.items() if np.dtype(name) == dtype)
    with path.open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, _VERSION, code, len(lengths), len(lengths) + 1))
        for chunk in _chunks(lengths):
            file.write(chunk.astype("<i4").tobytes())
        pointer = 0
        for chunk in _chunks(lengths):
            ends = pointer + np.cumsum(chunk, dtype=np.int64) * dtype.itemsize
            file.write((ends - chunk.astype(np.int64) * dtype.itemsize).astype("<i8").tobytes())
            pointer = int(ends[-1])
        for start in range(0, len(lengths) + 1, _CHUNK):
            file.write(np.arange(start, min(start + _CHUNK, len(lengths) + 1), dtype="<i8").tobytes())
        file.flush()
        os.fsync(file.fileno())


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(array), _CHUNK):
        yield array[start : start + _CHUNK]
