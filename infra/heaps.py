"""Heaps of the C library: how many a process has, and what they keep of memory that is freed.

What is set here holds for the life of a process. Settings of the user in the environment take precedence, and with
another C library than glibc nothing is set.
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

A bound on large allocations keeps this one from following it: it stays at 128 KB unless it is set too. Nearly every
array was then given back and asked for again, page by page: a fit of a codebook took 29 s, and takes 21 s.
"""
PARAMETERS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_ARENA_MAX": -8}
"""Variables of the environment, and the parameters of `mallopt` that they set (malloc.h)."""


def limit_heaps() -> None:
    """Bound the number of heaps. Called before there are threads: the C library settles it when it has made nine."""
    _set("MALLOC_ARENA_MAX", min(len(os.sched_getaffinity(0)), MOST_HEAPS))


def give_large_arrays_pages_of_their_own() -> None:
    """Give large allocations back when they are freed. Called before the work that holds arrays of all items."""
    _set("MALLOC_MMAP_THRESHOLD_", LARGE)
    _set("MALLOC_TRIM_THRESHOLD_", KEPT)


def _set(name: str, value: int) -> None:
    if name in os.environ or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    with suppress(OSError, AttributeError):  # a C library without this call, such as musl
        ctypes.CDLL(None).mallopt(PARAMETERS[name], value)
