"""Token files: the `.bin` + `.idx` pair of Megatron-LM and GPT-NeoX, read with memory maps.

`.bin` holds only token ids, document after document; together they form the stream. The stream may be split into
shards `x-00000-of-00020.bin`, `x-00001-of-00020.bin`, ... beside one `x.idx`. A shard may end anywhere, even inside
a token. (In published sets, the number after `of` is the count or the number of the last shard; both are supported.)

Opening takes constant time and memory. Knows nothing of text, tokenizers or samples.
"""

import glob
import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np

from loopway.data.tokens.index import TokenIndex, map_file, mapped_size
from loopway.errors import DataError

_SHARD = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<of>\d{5})")
_PAGE = 4096
_PIECE = 2**20  # bytes that are checked at a time
_PIECES = 64  # a file with more pieces is only spot-checked


class TokenFile:
    """An open token file; create one with :meth:`open`.

    Opening reads only headers and a few places of the index. An object sent to another process reopens the file there.
    Positions and lengths are in tokens.
    """

    prefix: Path
    """Path without `.bin` or `.idx`."""
    dtype: np.dtype
    """Type of the ids: a little-endian integer."""
    num_tokens: int
    """Number of tokens in the stream."""
    num_shards: int
    """Number of files that hold the stream."""

    def __init__(self, prefix: Path, bins: list[Path]) -> None:
        self.prefix = prefix
        idx = Path(f"{prefix}.idx")
        if not idx.is_file():
            raise DataError(f"{idx}: no such file; a token file is a pair of .bin and .idx")
        self._index = TokenIndex(idx)
        self.dtype, self._width = self._index.dtype, self._index.dtype.itemsize
        self.num_sequences, self.num_documents = len(self._index.sizes), self._index.num_documents
        self._paths, self._shards = bins, [map_file(path) for path in bins]
        ends = list(accumulate(len(shard) for shard in self._shards))
        self._begins = [0, *ends[:-1]]
        if ends[-1] != self._index.num_bytes:
            name = bins[0] if len(bins) == 1 else f"{bins[0]} to {bins[-1].name}"
            raise DataError(
                f"{name}: {ends[-1]} bytes, but {idx.name} describes {self._index.num_bytes}; "
                "a file is truncated or missing, or the index belongs to another file"
            )
        if ends[-1] == 0:
            raise DataError(f"{bins[0]}: holds no tokens")
        self.num_tokens, self.num_shards = ends[-1] // self._width, len(bins)

    @classmethod
    def open(cls, path: Path | str) -> "TokenFile":
        """Open a token file by its prefix (`x`), by `x.bin` or `x.idx`, or by any of its shards.

        Raises:
            DataError: a file is missing or damaged, or holds no tokens.
        """
        prefix = _prefix(Path(path))
        return cls(prefix, _bins(prefix))

    def __reduce__(self):
        return TokenFile.open, (Path(f"{self.prefix}.idx"),)  # a bare prefix may itself end in .bin

    @cached_property
    def document_lengths(self) -> np.ndarray:
        """Return the length of each document, int64[documents]. Reads the whole index: for small files only."""
        return self._index.document_lengths()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the tokens of the stream from `start` to `stop`, [stop - start] of `dtype`, read-only.

        They are a view of the file, aligned or not, or a copy if they span several shards.

        Raises:
            IndexError: the range lies outside the stream.
        """
        self._check_range(start, stop)
        first_byte, last_byte = start * self._width, stop * self._width
        number = bisect_right(self._begins, first_byte) - 1
        content = self._shard(number)[first_byte - self._begins[number] : last_byte - self._begins[number]]
        if len(content) < last_byte - first_byte:
            rest = ((self._shard(later), self._begins[later]) for later in range(number + 1, self.num_shards))
            content = np.concatenate(
                [content, *(shard[: max(last_byte - begin, 0)] for shard, begin in rest)]
            )
        return content.view(self.dtype)

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield all bytes of the stream in order, in arrays uint8[at most 1 MiB]."""
        for number in range(self.num_shards):
            shard = self._shard(number)
            for start in range(0, len(shard), _PIECE):
                yield shard[start : start + _PIECE]

    def sequence(self, index: int) -> np.ndarray:
        """Return the tokens of a sequence, as :meth:`read`.

        Raises:
            IndexError: there is no such sequence.
            DataError: the index is damaged there.
        """
        return self.read(*self._index.sequence(index))

    def sequence_size(self, index: int) -> int:
        """Return the length of a sequence in tokens; raises as :meth:`sequence`."""
        start, stop = self._index.sequence(index)
        return stop - start

    def document_begins(self, start: int, stop: int) -> np.ndarray:
        """Return the positions p, `start` <= p < `stop`, at which a document begins: int64[...], increasing.

        Raises:
            IndexError: the range lies outside the stream.
            DataError: the index is damaged there.
        """
        self._check_range(start, stop)
        return self._index.document_begins(start, stop)

    def documents(self) -> Iterator[np.ndarray]:
        """Yield the tokens of every document in order, as :meth:`read`."""
        start = None
        for first, last in self._ranges():
            for begin in self.document_begins(first, last).tolist():
                if start is not None:
                    yield self.read(start, begin)
                start = begin
        if start is not None:
            yield self.read(start, self.num_tokens)

    def fingerprint(self) -> str:
        """Return a hash that identifies the file: of its size, and of 64 spread pages each of index and tokens."""
        digest = hashlib.sha256(f"{self.dtype} {self.num_tokens} {self.num_documents}".encode())
        for content in (self._index.content, *self._shards):
            for start in np.linspace(0, max(len(content) - _PAGE, 0), 64).astype(int):
                digest.update(content[start : start + _PAGE].tobytes())
        return digest.hexdigest()

    def check_ids(self, vocab_size: int) -> None:
        """Check that ids lie in 0..`vocab_size` - 1.

        Checks all tokens of files up to 64 MiB, and 64 evenly spread MiB of larger ones; :meth:`verify` checks all.

        Raises:
            DataError: an id lies outside the vocabulary.
        """
        size = _PIECE // self._width
        ranges: Iterable[tuple[int, int]] = self._ranges()
        if self.num_tokens > size * _PIECES:
            starts = np.linspace(0, self.num_tokens - size, _PIECES).astype(np.int64).tolist()
            ranges = [(start, start + size) for start in starts]
        self._check_ids(vocab_size, ranges)

    def verify(self, vocab_size: int | None = None) -> None:
        """Check the whole file, in bounded memory.

        Raises:
            DataError: the index is inconsistent, or an id is negative or, with `vocab_size`, outside the vocabulary.
        """
        self._index.verify()
        self._check_ids(
            int(np.iinfo(self.dtype).max) + 1 if vocab_size is None else vocab_size, self._ranges()
        )

    def _check_ids(self, vocab_size: int, ranges: Iterable[tuple[int, int]]) -> None:
        possible = np.iinfo(self.dtype)
        if possible.min == 0 and possible.max < vocab_size:
            return
        for start, stop in ranges:
            ids = self.read(start, stop)
            if ids.min() < 0 or ids.max() >= vocab_size:
                position = int(np.argmax((ids < 0) | (ids >= vocab_size)))
                raise DataError(
                    f"{self.prefix}: token {start + position} has the id {ids[position]}, outside 0..{vocab_size - 1}; "
                    "give the tokenizer that wrote the file"
                )

    def _ranges(self) -> Iterator[tuple[int, int]]:
        size = _PIECE // self._width
        return ((start, min(start + size, self.num_tokens)) for start in range(0, self.num_tokens, size))

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(f"tokens {start}..{stop} of {self.num_tokens} in {self.prefix}")

    def _shard(self, number: int) -> np.ndarray:
        """Return a shard's bytes after checking the file's size; a deleted file stays readable until it is closed."""
        shard, path = self._shards[number], self._paths[number]
        try:
            size = mapped_size(shard)
        except OSError as error:
            raise DataError(f"{path}: can no longer be read: {error.strerror}") from None
        if size < len(shard):
            raise DataError(f"{path}: it had {len(shard)} bytes when it was opened, now {size}")
        return shard


def _prefix(path: Path) -> Path:
    """Return the prefix `x` of x, x.bin, x.idx or x-00003-of-00020.bin."""
    if path.suffix in (".bin", ".idx"):
        path = path.with_suffix("")
    shard = _SHARD.fullmatch(path.name)
    return path.with_name(shard["prefix"]) if shard and _is_shard(path) else path


def _is_shard(prefix: Path) -> bool:
    # Complete token files may be named like shards; a file with its own index is not a shard.
    return not Path(f"{prefix}.idx").exists()


def _bins(prefix: Path) -> list[Path]:
    """Return `x.bin`, or all of its shards in order."""
    whole, found = Path(f"{prefix}.bin"), dict[tuple[str, int], Path]()
    for path in prefix.parent.glob(f"{glob.escape(prefix.name)}-*-of-*.bin"):
        shard = _SHARD.fullmatch(path.stem)
        if shard and shard["prefix"] == prefix.name and _is_shard(path.with_suffix("")):
            found[shard["of"], int(shard["number"])] = path
    if not found:
        if not whole.is_file():
            raise DataError(f"{whole}: no such file; a token file is a pair of .bin and .idx")
        return [whole]
    paths = [path for _, path in sorted(found.items())]
    if whole.exists():
        raise DataError(f"{whole}: exists beside its shards ({paths[0].name}, ...); keep one or the other")
    ofs, numbers = sorted({of for of, _ in found}), sorted(number for _, number in found)
    if len(ofs) > 1:
        raise DataError(
            f"{prefix}.bin: shards of several sets (...-of-{ofs[0]}.bin, ...-of-{ofs[1]}.bin); keep one set"
        )
    missing = sorted(set(range(max(int(ofs[0]), numbers[-1]))) - set(numbers))
    if missing:
        names = ", ".join(f"{prefix.name}-{number:05}-of-{ofs[0]}.bin" for number in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(
            f"{prefix.parent}: holds {len(numbers)} shards of {prefix.name}.bin, not {names}{more}"
        )
    return paths
