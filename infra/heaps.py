"""Heaps of the C library: how many a process has, and what they keep of memory that is freed.

What is set here holds for the life of a process. Without glibc nothing is set.
"""

import ctypes
import os
from contextlib import suppress

MOST_HEAPS = 8
"""Heaps of a process: one for each core up to this number. By default there are eight for each core."""
LARGE = 1 << 23
"""Bytes of an allocation that has pages of its own, which are given back when it is freed.

The C library raises this bound to 32 MB by itself. Freed arrays below it then stay in the heaps.
"""
KEPT = 1 << 25
"""Bytes that a heap keeps when smaller allocations are freed.

A bound on large allocations sets this one back to 128 KB. Nearly every array was then given back and asked for again,
page by page: a fit of a codebook took 29 s, and takes 21 s.
"""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""The parameters of `mallopt` of those names, from malloc.h."""


def limit_heaps() -> None:
    """Bound the number of heaps. Called before there are threads: the C library settles it once there are some."""
    _set(M_ARENA_MAX, min(len(os.sched_getaffinity(0)), MOST_HEAPS))


def give_large_arrays_pages_of_their_own() -> None:
    """Give large allocations back when they are freed. Called before the work that holds arrays of all items."""
    _set(M_MMAP_THRESHOLD, LARGE)
    _set(M_TRIM_THRESHOLD, KEPT)


def _set(parameter: int, value: int) -> None:
    with suppress(OSError, AttributeError):  # a C library without this call, such as musl
        ctypes.CDLL(None).mallopt(parameter, value)
