"""A seeded permutation of 0..n-1 that is computed element by element, in memory that doesn't grow with n.

A Feistel network: an index is written as a pair (left, right), and in turns each half is shifted by a keyed hash of
the other. Every shift can be undone, so the pairs are permuted. There are a few more pairs than indices: one that
lands outside goes through the network again until it lands inside (cycle walking), which permutes the indices.

Knows nothing of samples and epochs.
"""

import hashlib
import math

import numpy as np

_ROUNDS = 8  # as many 64-bit keys as a BLAKE2b digest holds


def permuted(indices: np.ndarray, size: int, *key: int) -> np.ndarray:
    """Where a permutation of 0..size-1 sends each of `indices`: int64[n] to int64[n].

    The permutation depends on `size` (1 to 2**62) and `key` alone, so it is the same on every machine and with every
    version of numpy. `indices` must lie in 0..size-1.
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
    """All rounds of the network on pairs written as left * columns + right: uint64[n] to uint64[n]."""
    left, right = np.divmod(pairs, np.uint64(columns))
    for number in range(0, _ROUNDS, 2):
        left = (left + _hash(right, round_keys[number])) % np.uint64(rows)
        right = (right + _hash(left, round_keys[number + 1])) % np.uint64(columns)
    return left * np.uint64(columns) + right


def _hash(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """63 well-mixed bits of each value: a half (at most 31 bits) is added to them without overflow."""
    mixed = (values ^ key) * np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xC2B2AE3D27D4EB4F)
    return (mixed ^ (mixed >> np.uint64(32))) >> np.uint64(1)
