"""The order in which samples are seen: from the index of a sample to the row of the data that it is.

A row's number says where it stands in the data, an index when it is seen. Which row an index is depends on the
arguments and the index alone, and takes memory that doesn't grow with the number of rows: a run may ask from anywhere,
in any number of processes. Blocks that were asked for lately are kept, so rising indices are the fastest.

Knows nothing of token files.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

from loopway.data.tokens.permutation import permuted
from loopway.errors import DataError

_BLOCK = 4096  # positions whose rows are computed together
MIXTURE_BLOCK = 1000
"""Samples in a row among which every source of a mixture has its exact share."""


@lru_cache(maxsize=256)  # 8 MiB: some for every source, or all of a small set read at random
def _shuffled(block: int, rows: int, *key: int) -> np.ndarray:
    """The rows seen at the positions of one block, int64[up to 4,096]."""
    return permuted(np.arange(block * _BLOCK, min((block + 1) * _BLOCK, rows)), rows, *key)


class EpochOrder:
    """Rows 0..rows-1, epoch after epoch: in order where `key` is None, else anew by the key in each epoch."""

    def __init__(self, rows: int, key: tuple[int, ...] | None) -> None:
        self.rows = rows
        self._key = key

    def row(self, index: int) -> int:
        """The row that is seen as number `index` (from 0)."""
        epoch, position = divmod(index, self.rows)
        if self._key is None:
            return position
        block, place = divmod(position, _BLOCK)
        return int(_shuffled(block, self.rows, *self._key, epoch)[place])


class SpreadOrder:
    """`samples` of rows 0..rows-1, evenly spread over them and in their order."""

    def __init__(self, rows: int, samples: int) -> None:
        self.rows = rows
        self._samples = samples

    def row(self, index: int) -> int:
        """The row that is seen as number `index` (from 0)."""
        return index * self.rows // self._samples


class MixedOrder:
    """Several sources, one after another in the data, each seen as often as its weight says.

    Of 1,000 consecutive samples (0..999, 1000..1999, ...) each source has the same whole number, at places that depend
    on `seed`; None puts each source's together. Among a source's own samples the order is that of `orders`.

    Raises :class:`DataError` for weights that aren't positive, and for one so small that it gets none of the 1,000.
    """

    def __init__(self, orders: Sequence[EpochOrder], weights: Sequence[float], seed: int | None) -> None:
        self._orders = orders
        self._first_rows = [0, *accumulate(order.rows for order in orders)]
        self._counts = tuple(block_counts(weights))
        self._seed = seed

    def row(self, index: int) -> int:
        """The row, counted over all sources, that is seen as number `index` (from 0)."""
        block, place = divmod(index, MIXTURE_BLOCK)
        sources, earlier = _mixed(block, self._counts, self._seed)
        source = int(sources[place])
        number = block * self._counts[source] + int(earlier[place])
        return self._first_rows[source] + self._orders[source].row(number)


@lru_cache(maxsize=256)  # 4 MiB
def _mixed(block: int, counts: tuple[int, ...], seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Of each sample in a block: its source, and how many of that source come before it there. int64[1000] each."""
    sources = np.repeat(np.arange(len(counts)), counts)
    earlier = np.concatenate([np.arange(count) for count in counts])
    if seed is None:
        return sources, earlier
    sources = sources[permuted(np.arange(MIXTURE_BLOCK), MIXTURE_BLOCK, seed, block)]
    shuffled = np.empty_like(earlier)
    shuffled[np.argsort(sources, kind="stable")] = earlier
    return sources, shuffled


def block_counts(weights: Sequence[float]) -> list[int]:
    """How many of 1,000 samples each source has: proportional to its weight, rounded by the largest remainder.

    Raises :class:`DataError` for weights that aren't positive, and for one so small that its source gets none.
    """
    for weight in weights:
        if not 0 < weight < math.inf:
            raise DataError(f"a source has weight {weight}; give a positive number, or leave the source out")
    parts = [weight / max(weights) for weight in weights]  # whose sum can't overflow
    shares = [part / math.fsum(parts) * MIXTURE_BLOCK for part in parts]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda source: counts[source] - shares[source])
    for source in by_remainder[: MIXTURE_BLOCK - sum(counts)]:
        counts[source] += 1
    for weight, count in zip(weights, counts, strict=True):
        if count == 0:
            raise DataError(
                f"a source has weight {weight} and would get none of {MIXTURE_BLOCK} samples; give it at least a "
                "thousandth of all weights, or leave the source out"
            )
    return counts
