"""Token files: the ``.bin`` + ``.idx`` pair of Megatron-LM and GPT-NeoX, read with memory maps.

``.bin`` holds nothing but token ids. ``.idx``, little-endian: 9 bytes magic, u64 version, u8 dtype code, u64 number of
sequences N, u64 number of document entries D, i32 sizes[N] in tokens, i64 pointers[N] in bytes, i64 documents[D],
the sequence at which each document begins and N at the end. Loopway writes one sequence a document.

Knows nothing of text, tokenizers or samples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loopway.errors import DataError

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_HEADER = np.dtype(
    [("magic", "V9"), ("version", "<u8"), ("dtype", "u1"), ("sequences", "<u8"), ("documents", "<u8")]
)


def _pair(prefix: Path | str) -> tuple[Path, Path]:
    # not with_suffix: a prefix may hold dots of its own
    return Path(f"{prefix}.bin"), Path(f"{prefix}.idx")


@dataclass(frozen=True, eq=False)
class TokenFile:
    """An open token file. ``tokens`` is a read-only memory map: int[num_tokens], all documents in order."""

    prefix: Path
    tokens: np.ndarray
    document_lengths: np.ndarray
    """int64[documents], in tokens, the end-of-text token included."""

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @classmethod
    def open(cls, prefix: Path | str) -> "TokenFile":
        """Opens ``prefix.bin`` and ``prefix.idx``; raises :class:`DataError` where they are missing or damaged."""
        bin_path, idx_path = _pair(prefix)
        for path in (bin_path, idx_path):
            if not path.is_file():
                raise DataError(f"{path}: no such file; a token file is a pair of .bin and .idx")
        dtype, sizes, pointers, documents = _read_index(idx_path)
        starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        if not np.array_equal(pointers, starts[:-1] * dtype.itemsize):
            raise DataError(f"{idx_path}: damaged: sequences do not follow one another in the .bin file")
        expected, actual = int(starts[-1]) * dtype.itemsize, bin_path.stat().st_size
        if actual != expected:
            raise DataError(f"{bin_path}: {actual} bytes, but {idx_path.name} describes {expected}")
        if actual == 0:
            raise DataError(f"{bin_path}: holds no tokens")
        tokens = np.memmap(bin_path, dtype=dtype, mode="r")
        return cls(Path(prefix), tokens, np.diff(starts[documents]))

    def __reduce__(self):
        # A worker process maps the file again instead of receiving a copy of its tokens.
        return TokenFile.open, (self.prefix,)


def _read_index(path: Path) -> tuple[np.dtype, np.ndarray, np.ndarray, np.ndarray]:
    """dtype of the tokens, sizes int32[N], pointers int64[N], documents int64[D]; all checked against the length."""
    content = path.read_bytes()
    if len(content) < _HEADER.itemsize:
        raise DataError(f"{path}: truncated: {len(content)} bytes, the header alone has {_HEADER.itemsize}")
    header = np.frombuffer(content, _HEADER, count=1)[0]
    if header["magic"].tobytes() != _MAGIC:
        raise DataError(
            f"{path}: not the index of a token file (it begins with {content[:9]!r}, not {_MAGIC!r})"
        )
    if header["version"] != _VERSION:
        raise DataError(f"{path}: version {header['version']} of the format; only {_VERSION} is known")
    code = int(header["dtype"])
    if code not in _DTYPES:
        allowed = ", ".join(f"{known} ({np.dtype(_DTYPES[known])})" for known in _DTYPES)
        raise DataError(
            f"{path}: dtype code {code} is not one of the integers that token ids can have: {allowed}"
        )
    # Python integers: a damaged count must not overflow into a plausible one.
    sequences, entries = int(header["sequences"]), int(header["documents"])
    expected = _HEADER.itemsize + (4 + 8) * sequences + 8 * entries
    if len(content) != expected:
        raise DataError(
            f"{path}: truncated or damaged: {len(content)} bytes, but {sequences} sequences and {entries} document "
            f"entries take {expected}"
        )
    offset = _HEADER.itemsize
    sizes = np.frombuffer(content, "<i4", sequences, offset)
    pointers = np.frombuffer(content, "<i8", sequences, offset + 4 * sequences)
    documents = np.frombuffer(content, "<i8", entries, offset + 12 * sequences)
    if (sizes < 0).any():
        raise DataError(f"{path}: damaged: a sequence of negative length")
    if entries < 1 or documents[0] != 0 or documents[-1] != sequences or (np.diff(documents) < 0).any():
        raise DataError(f"{path}: damaged: the document index must rise from 0 to {sequences}")
    return np.dtype(_DTYPES[code]).newbyteorder("<"), sizes, pointers, documents


def write_token_file(prefix: Path | str, documents: Iterable[Sequence[int]], vocab_size: int) -> TokenFile:
    """Writes ``prefix.bin`` and ``prefix.idx``, one sequence a document, and opens them.

    Ids take 2 bytes where ``vocab_size`` allows, else 4. Raises :class:`DataError` for an id outside the vocabulary
    and for no tokens at all.
    """
    code = 8 if vocab_size <= 2**16 else 4
    dtype = np.dtype(_DTYPES[code]).newbyteorder("<")
    bin_path, idx_path = _pair(prefix)
    sizes: list[int] = []
    with bin_path.open("wb") as file:
        for document in documents:
            ids = np.asarray(document, dtype=np.int64)
            if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
                raise DataError(
                    f"{bin_path}: document {len(sizes)} has a token id outside 0..{vocab_size - 1}"
                )
            file.write(ids.astype(dtype).tobytes())
            sizes.append(len(ids))
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    header = np.array([(_MAGIC, _VERSION, code, len(sizes), len(sizes) + 1)], dtype=_HEADER)
    with idx_path.open("wb") as file:
        file.write(header.tobytes())
        file.write(np.asarray(sizes, dtype="<i4").tobytes())
        file.write((starts[:-1] * dtype.itemsize).astype("<i8").tobytes())
        file.write(np.arange(len(sizes) + 1, dtype="<i8").tobytes())
    return TokenFile.open(prefix)
