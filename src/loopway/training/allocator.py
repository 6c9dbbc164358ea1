"""Memory of a process that trains on a CPU: large blocks go back to the system as soon as they are free.

glibc keeps freed blocks of up to 32 MB for later, and activations of that size leave holes that nothing fits into: a
step of a 160M-parameter model then holds a gigabyte more than it uses. Knows nothing of models.
"""

import ctypes
import os
import sys

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
LARGE_BLOCK = 10 * 2**20
"""Bytes from which on a block is the system's own mapping. Mapping costs time, as every page is cleared: with 4 MB the
steps of a model of hidden size 256 took a tenth longer, and such models need no memory saved."""


def return_large_blocks(from_bytes: int = LARGE_BLOCK) -> bool:
    """Map blocks of this size one by one; False where the C library can't (anything but glibc) or the user's own
    ``MALLOC_MMAP_THRESHOLD_`` decides.
    """
    if sys.platform != "linux" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_MMAP_THRESHOLD, from_bytes) == 1
