"""Policy for memory that a process on a CPU has freed: keep it, or return it to the system.

Returned memory must be cleared page by page when it is allocated again, which slows the steps of a small model. Kept memory
fragments under a large model's activations: a step of a 160M-parameter model then holds a gigabyte more than it uses.
Knows glibc and the model's size.
"""

import ctypes
import os
import sys

LARGE_BLOCK = 10 * 2**20
"""Bytes from which on a large model's block is the system's own mapping."""
SMALL_MODEL = 32_000_000
"""Parameters up to which freed memory is kept."""
# Options of malloc.h: the bytes that may lie free at the heap's end, from where on a block is mapped, and how many are.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_TRIM_DEFAULT, _MMAP_MAX_DEFAULT = 128 * 2**10, 65536
_EVERYTHING = 2**31 - 1  # the largest that mallopt takes
_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")


def set_up_allocator(parameters: int) -> bool:
    """Keep what a small model frees, return what a large one does; False where neither can be done."""
    return keep_freed_blocks() if parameters <= SMALL_MODEL else return_large_blocks()


def keep_freed_blocks() -> bool:
    """Keep freed memory in this process; False as for :func:`return_large_blocks`."""
    return _set(((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _EVERYTHING)))


def return_large_blocks(from_bytes: int = LARGE_BLOCK) -> bool:
    """Map blocks of this size separately, which returns them as soon as they are freed.

    Returns:
        False where the C library can't (anything but glibc) or the user's own environment variables for this decide.
    """
    return _set(
        ((_MMAP_MAX, _MMAP_MAX_DEFAULT), (_MMAP_THRESHOLD, from_bytes), (_TRIM_THRESHOLD, _TRIM_DEFAULT))
    )


def _set(options: tuple[tuple[int, int], ...]) -> bool:
    if sys.platform != "linux" or any(name in os.environ for name in _BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, value) == 1 for option, value in options)
