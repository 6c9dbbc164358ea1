"""The order of samples: maps the index of a sample to a row of the data.

The row depends only on the arguments and the index, and memory doesn't grow with the number of rows. A run can
therefore start anywhere, with any number of processes. Recent blocks are cached: increasing indices are fastest. Knows
nothing of token files.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

from loopway.errors import DataError

_BLOCK = 4096  # positions whose rows are computed together
_ROUNDS = 8  # one per 64-bit key in a BLAKE2b digest
MIXTURE_BLOCK = 1000
"""Number of consecutive samples in which every source of a mixture has its exact share."""


class EpochOrder:
    """Rows 0..rows-1, epoch after epoch: in order if `key` is None, else shuffled by the key and the epoch."""

    def __init__(self, rows: int, key: tuple[int, ...] | None) -> None:
        self.rows = rows
        self._key = key

    def row(self, index: int) -> int:
        """Return the row of sample `index` (from 0)."""
        epoch, position = divmod(index, self.rows)
        if self._key is None:
            return position
        block, place = divmod(position, _BLOCK)
        return int(_shuffled(block, self.rows, *self._key, epoch)[place])


class SpreadOrder:
    """A number of `samples` from rows 0..rows-1, evenly spread and in order."""

    def __init__(self, rows: int, samples: int) -> None:
        self.rows = rows
        self._samples = samples

    def row(self, index: int) -> int:
        """Return the row of sample `index` (from 0)."""
        return index * self.rows // self._samples


class MixedOrder:
    """A mixture of several sources, concatenated in the data, each sampled according to its weight.

    In every block of 1,000 samples (0..999, 1000..1999, ...) each source has the same number of samples. Their
    positions depend on `seed`; with None, samples of one source are adjacent. Within a source, `orders` gives the order.

    Raises:
        DataError: weights are invalid; see :func:`block_counts`.
    """

    def __init__(self, orders: Sequence[EpochOrder], weights: Sequence[float], seed: int | None) -> None:
        self._orders = orders
        self._first_rows = [0, *accumulate(order.rows for order in orders)]
        self._counts = tuple(block_counts(weights))
        self._seed = seed

    def row(self, index: int) -> int:
        """Return the row of sample `index` (from 0), counted over all sources."""
        block, place = divmod(index, MIXTURE_BLOCK)
        sources, earlier = _mixed(block, self._counts, self._seed)
        source = int(sources[place])
        number = block * self._counts[source] + int(earlier[place])
        return self._first_rows[source] + self._orders[source].row(number)


def block_counts(weights: Sequence[float]) -> list[int]:
    """Return each source's number of samples per 1,000: its share of the weights, rounded by largest remainder.

    Raises:
        DataError: a weight isn't positive, or is so small that its source gets no sample.
    """
    for weight in weights:
        if not 0 < weight < math.inf:
            raise DataError(f"a source has weight {weight}; give a positive number, or remove the source")
    parts = [weight / max(weights) for weight in weights]  # their sum can't overflow
    shares = [part / math.fsum(parts) * MIXTURE_BLOCK for part in parts]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda source: counts[source] - shares[source])
    for source in by_remainder[: MIXTURE_BLOCK - sum(counts)]:
        counts[source] += 1
    if 0 in counts:
        raise DataError(
            f"a source has weight {weights[counts.index(0)]} and would get none of {MIXTURE_BLOCK} samples; give it at "
            "least a thousandth of all weights, or remove the source"
        )
    return counts


@lru_cache(maxsize=256)  # 8 MiB: several blocks per source, or all of a small set read at random
def _shuffled(block: int, rows: int, *key: int) -> np.ndarray:
    """Return the rows of one block of positions, int64[up to 4,096]."""
    return permuted(np.arange(block * _BLOCK, min((block + 1) * _BLOCK, rows)), rows, *key)


@lru_cache(maxsize=256)  # 4 MiB
def _mixed(block: int, counts: tuple[int, ...], seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return each sample's source, and the number of earlier samples of that source in the block; int64[1000] each."""
    sources = np.repeat(np.arange(len(counts)), counts)
    earlier = np.concatenate([np.arange(count) for count in counts])
    if seed is None:
        return sources, earlier
    sources = sources[permuted(np.arange(MIXTURE_BLOCK), MIXTURE_BLOCK, seed, block)]
    shuffled = np.empty_like(earlier)
    shuffled[np.argsort(sources, kind="stable")] = earlier
    return sources, shuffled


def permuted(indices: np.ndarray, size: int, *key: int) -> np.ndarray:
    """Apply a keyed pseudorandom permutation of 0..size-1 to `indices`: int64[n] to int64[n].

    A Feistel network: an index is written as a pair (left, right), and each half in turn is shifted by a keyed hash of
    the other. Every shift is invertible, so the pairs are permuted. There are a few more pairs than indices. A result
    outside the range goes through the network again until it lies inside (cycle walking), which permutes the indices.

    The permutation depends only on `size` (1 to 2**62) and `key`: it is equal on all machines and with all versions of
    numpy. `indices` must lie in 0..size-1.
    """
    columns = math.isqrt(size - 1) + 1
    rows = -(-size // columns)
    name = ",".join(str(int(number)) for number in (size, *key))
    round_keys = np.frombuffer(hashlib.blake2b(name.encode()).digest(), dtype="<u8")
    images = _pass(indices.astype(np.uint64), rows, columns, round_keys)
    while (outside := images >= size).any():
        images[outside] = _pass(images[outside], rows, columns, round_keys)
    return images.astype(np.int64)


def _pass(pairs: np.ndarray, rows: int, columns: int, round_keys: np.ndarray) -> np.ndarray:
    """Apply all rounds of the network to pairs encoded as left * columns + right: uint64[n] to uint64[n]."""
    left, right = np.divmod(pairs, np.uint64(columns))
    for number in range(0, _ROUNDS, 2):
        left = (left + _hash(right, round_keys[number])) % np.uint64(rows)
        right = (right + _hash(left, round_keys[number + 1])) % np.uint64(columns)
    return left * np.uint64(columns) + right


def _hash(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """Return a 63-bit hash of each value; adding a half (at most 31 bits) to it can't overflow."""
    mixed = (values ^ key) * np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xC2B2AE3D27D4EB4F)
    return (mixed ^ (mixed >> np.uint64(32))) >> np.uint64(1)
