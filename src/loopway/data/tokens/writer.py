"""Write token files in bounded memory.

During writing, document lengths are stored in `x.lengths` beside `x.bin`. `x.idx` is made from them at the end: a pair
of `.bin` and `.idx` is always complete. Knows nothing of text and tokenizers.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from loopway.data.tokens.file import TokenFile
from loopway.data.tokens.index import map_file, write_index
from loopway.errors import DataError

_LONGEST = 2**31 - 1  # tokens in a document: the format holds lengths as int32


class TokenWriter:
    """Writes `prefix.bin` and `prefix.idx` with one sequence per document, and overwrites existing files.

    Ids take 2 bytes if `vocab_size` allows it, else 4.
    """

    tokens: int
    """Written so far."""
    documents: int
    """Number of documents written so far, without an unfinished one."""

    def __init__(self, prefix: Path | str, vocab_size: int) -> None:
        self.prefix = Path(prefix)
        self.vocab_size = vocab_size
        self.dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<i4")
        self.documents = self.tokens = 0
        self._largest_id = -1
        self._part: int | None = None  # tokens so far of an unfinished document
        self._bin_path, self._lengths_path, self._idx_path = (
            Path(f"{prefix}{suffix}") for suffix in (".bin", ".lengths", ".idx")
        )
        self._idx_path.unlink(missing_ok=True)  # it would describe another .bin once this one is written to
        self._bin, self._lengths = self._bin_path.open("wb"), self._lengths_path.open("wb")
        self._sha256 = hashlib.sha256()

    def append(self, ids: np.ndarray, lengths: np.ndarray, *, ends: bool = True) -> None:
        """Write documents.

        Args:
            ids: their concatenated token ids, int[tokens].
            lengths: their lengths, int64[documents].
            ends: False: the last document is unfinished, and the first document of the next call continues it.

        Raises:
            DataError: an id lies outside the vocabulary, or a document has more than 2**31 - 1 tokens. Nothing is
                written then.
        """
        if lengths.sum() != len(ids) or lengths.min(initial=0) < 0:
            raise ValueError(f"{len(ids)} ids for documents of {lengths.tolist()} tokens")
        if not len(lengths):
            return
        whole = lengths.astype(np.int64)
        whole[0] += self._part or 0
        if (longest := int(whole.max())) > _LONGEST:
            raise DataError(
                f"{self._bin_path}: a document has {longest} tokens; the format allows {_LONGEST}: split the text"
            )
        self._check_ids(ids, lengths)
        content = ids.astype(self.dtype).tobytes()
        self._bin.write(content)
        self._sha256.update(content)
        self.tokens += len(ids)
        ended = whole if ends else whole[:-1]
        self._part = None if ends else int(whole[-1])
        self._lengths.write(ended.astype("<i4").tobytes())
        self.documents += len(ended)

    def finish(self) -> dict[str, Any]:
        """Write the index, sync all to disk and close the files.

        Returns:
            `documents`, `tokens`, `largest_id` (-1 without tokens), and `sha256` of the `.bin`.
        """
        if self._part is not None:
            raise ValueError("the last document has not ended")
        self._bin.flush()
        os.fsync(self._bin.fileno())
        self.close()
        partial = self._idx_path.with_name(f"{self._idx_path.name}.incomplete")
        write_index(partial, self.dtype, map_file(self._lengths_path).view("<i4"))
        partial.replace(self._idx_path)
        self._lengths_path.unlink()
        counts = {"documents": self.documents, "tokens": self.tokens, "largest_id": self._largest_id}
        return counts | {"sha256": self._sha256.hexdigest()}

    def close(self) -> None:
        """Close the files in their present state. May be called twice."""
        self._bin.close()
        self._lengths.close()

    def _check_ids(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        if len(ids) == 0:
            return
        largest = int(ids.max())
        if ids.min() < 0 or largest >= self.vocab_size:
            at = int(np.argmax((ids < 0) | (ids >= self.vocab_size)))
            document = self.documents + int(np.searchsorted(np.cumsum(lengths), at, side="right"))
            raise DataError(
                f"{self._bin_path}: document {document} has a token id outside 0..{self.vocab_size - 1}: {ids[at]}"
            )
        self._largest_id = max(self._largest_id, largest)


def write_token_file(prefix: Path | str, documents: Iterable[Sequence[int]], vocab_size: int) -> TokenFile:
    """Write `prefix.bin` and `prefix.idx` with one sequence per document, and open them.

    Raises:
        DataError: an id lies outside the vocabulary, or there are no tokens.
    """
    with closing(TokenWriter(prefix, vocab_size)) as writer:
        for document in documents:
            writer.append(np.asarray(document, np.int64), np.array([len(document)]))
        writer.finish()
    return TokenFile.open(f"{prefix}.idx")
