"""Memory of the process of a run: what allocators keep is given back, for the next stage and its workers."""

import ctypes
from contextlib import suppress

import pyarrow as pa


def return_freed_memory() -> None:
    """Give back what allocators keep of memory that was freed."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # a C library without this call, such as musl
        ctypes.CDLL(None).malloc_trim(0)
