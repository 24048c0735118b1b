"""Memory of the process of a run: freed memory is returned to the system, for the next stage and its workers."""

import ctypes
from contextlib import suppress

import pyarrow as pa

LARGE = 1 << 23
"""Bytes of an allocation that has pages of its own, which are given back when it is freed.

The C library raises this bound to 32 MB by itself. Freed arrays below it then stay in the heap of each thread.
"""
M_MMAP_THRESHOLD = -3
"""The parameter of `mallopt` of that name, from malloc.h."""


def give_large_arrays_pages_of_their_own() -> None:
    """Set the bound of the C library for good. Called before the work of a run that holds arrays of all items."""
    with suppress(OSError, AttributeError):  # a C library without this call, such as musl
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def return_freed_memory() -> None:
    """Give back what allocators keep of memory that was freed."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
