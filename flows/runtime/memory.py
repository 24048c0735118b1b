"""Memory of the process of a run: freed memory is returned to the system, for the next stage and its workers."""

import ctypes
from contextlib import suppress

import pyarrow as pa

from pipelines.compute.cluster import machine_cpus

LARGE = 1 << 23
"""Bytes of an allocation that has pages of its own, which are given back when it is freed.

The C library raises this bound to 32 MB by itself. Freed arrays below it then stay in the heap of each thread.
"""
KEPT = 1 << 25
"""Bytes that a heap keeps when smaller allocations are freed.

A bound on large allocations sets this one back to 128 KB. Nearly every array was then given back and asked for again,
page by page: a fit of a codebook took 29 s, and takes 21 s.
"""
MOST_HEAPS = 8
"""Heaps of a process: one for each core up to this number. By default there are eight for each core."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""The parameters of `mallopt` of those names, from malloc.h."""


def give_large_arrays_pages_of_their_own() -> None:
    """Set the bounds of the C library for good. Called before the work of a run that holds arrays of all items."""
    with suppress(OSError, AttributeError):  # a C library without this call, such as musl
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGE)
        library.mallopt(M_TRIM_THRESHOLD, KEPT)
        library.mallopt(M_ARENA_MAX, min(machine_cpus(), MOST_HEAPS))


def return_freed_memory() -> None:
    """Give back what allocators keep of memory that was freed."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
