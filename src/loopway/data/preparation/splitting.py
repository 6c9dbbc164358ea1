"""Which documents are set aside for validation: a matter of their text and a seed alone.

A document's digest is a keyed hash of its text. It is set aside if the digest, read as a number, lies below a
threshold, so equal texts always fall on the same side, nothing has to be held in memory, and the order of documents
doesn't matter. Knows nothing of sources, tokenizers and files.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from loopway.data.preparation.reading import Hash

DIGEST_BYTES = 16


def new_hash(seed: int) -> Hash:
    """A hash object for a document's UTF-8 bytes."""
    return hashlib.blake2b(digest_size=DIGEST_BYTES, key=str(seed).encode())


def digest_of(text: str, seed: int) -> bytes:
    """The digest of a document."""
    digest = new_hash(seed)
    digest.update(text.encode())
    return digest.digest()


def keys_of(digests: bytes) -> np.ndarray:
    """The numbers, uint64[documents], of digests that follow one another."""
    return np.frombuffer(digests, dtype="<u8").reshape(-1, DIGEST_BYTES // 8)[:, 0]


def set_aside(keys: np.ndarray, fraction: float) -> np.ndarray:
    """bool[documents]: which ones are for validation. ``fraction`` is at least 0 and below 1."""
    return keys < np.uint64(fraction * 2.0**64)


class Extremes:
    """Of the documents of one side, those that come first in its order: of equal text, all of them.

    Where chance leaves the other side empty, these are moved there. ``sign`` 1 looks for the smallest key, -1 for the
    largest.
    """

    def __init__(
        self, sign: int, key: int | None = None, documents: Sequence[int] = (), text_bytes: int = 0
    ) -> None:
        self.sign = sign
        self.key = key
        self.documents = list(documents)
        """Their numbers within the side."""
        self.text_bytes = text_bytes
        """UTF-8 bytes of each."""

    def add(self, keys: np.ndarray, text_bytes: np.ndarray, first: int) -> None:
        """Takes in documents, ``keys`` and ``text_bytes`` [documents], numbered from ``first`` on."""
        if not len(keys):
            return
        best = int(keys.min() if self.sign > 0 else keys.max())
        if self.key is None or (best - self.key) * self.sign < 0:
            self.key, self.documents = best, []
        if best == self.key:
            found = np.flatnonzero(keys == np.uint64(best))
            self.documents += (first + found).tolist()
            self.text_bytes = int(text_bytes[found[0]])
