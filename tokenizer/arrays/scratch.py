"""Vectors larger than memory: plain float32 in an unnamed file that disappears with the process.

`copied` holds vectors of Parquet files, which are read many times; `scratch_matrix` holds results of a run.

Parquet is decoded at 256 MB/s on one core, which takes longer than the products on its values; a plain file in the page
cache is read at 4 GB/s. A few rows of a Parquet row group cost as much as all of them.
"""

import mmap
import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from functools import partial
from typing import IO

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.executor import Executor
from tokenizer.arrays.types import Floats
from tokenizer.arrays.vectors import ArrayRows, Items, Rows, spans

SPARE = 1.5
"""Free disk space required for a copy, in units of its size."""
IN_MEMORY = 1 << 28
"""Largest matrix kept in memory, in bytes."""


def scratch_matrix(rows: int, width: int) -> Floats:
    """Zeros, float32 (rows, width), in memory, or in a mapped file for a large matrix.

    The system can write pages of the file to disk when memory is short. Without disk space the matrix is in memory.
    """
    size = 4 * rows * width
    if size <= IN_MEMORY or not _has_room(size):
        return np.zeros((rows, width), np.float32)
    with tempfile.TemporaryFile() as file:  # the mapping keeps the file open
        file.truncate(size)
        return np.asarray(np.memmap(file, np.float32, "r+", shape=(rows, width)))


def scratch_take(vectors: Floats, rows: NDArray[np.int64]) -> Floats:
    """The given rows, ascending, of a matrix as a `scratch_matrix`; the matrix itself if they are all."""
    if len(rows) == len(vectors):
        return vectors
    out = scratch_matrix(len(rows), vectors.shape[1])
    for start, stop in spans(len(rows)):
        out[start:stop] = vectors[rows[start:stop]]
    return out


@dataclass(frozen=True)
class FileRows:
    """Vectors in a file of consecutive float32 rows. A `Rows`."""

    file: IO[bytes]
    shape: tuple[int, int]

    def read(self, start: int, stop: int) -> Floats:
        out = np.empty((stop - start, self.shape[1]), np.float32)
        rest, at = out.data.cast("B"), start * 4 * self.shape[1]
        while len(rest):
            got = os.preadv(self.file.fileno(), [rest], at)
            rest, at = rest[got:], at + got
        return out

    def take(self, rows: NDArray[np.int64]) -> Floats:
        """Map one span at a time: only touched pages are read, and none stays mapped."""
        width = self.shape[1]
        out = np.empty((len(rows), width), np.float32)
        for start, stop in spans(self.shape[0]):
            low, high = np.searchsorted(rows, [start, stop])
            if low < high:
                skipped = start * 4 * width % mmap.ALLOCATIONGRANULARITY
                bounds = {"length": (stop - start) * 4 * width + skipped, "offset": start * 4 * width - skipped}
                with mmap.mmap(self.file.fileno(), access=mmap.ACCESS_READ, **bounds) as window:
                    part = np.frombuffer(window, np.float32, offset=skipped).reshape(-1, width)
                    np.take(part, rows[low:high] - start, axis=0, out=out[low:high])
                    del part
        return out

    def put(self, start: int, vectors: Floats) -> None:
        """Write rows from `start` on."""
        rest, at = vectors.data.cast("B"), start * 4 * self.shape[1]
        while len(rest):
            done = os.pwrite(self.file.fileno(), rest, at)
            rest, at = rest[done:], at + done


def copied(items: Items, work: Executor) -> Items:
    """The items, with vectors that are not in memory copied to scratch files if the disk has space."""
    sources = {name: _copy(items, name, rows, work) for name, rows in items.rows.items()}
    return Items(sources, items.ties)


def _copy(items: Items, name: str, rows: Rows, work: Executor) -> Rows:
    size = 4 * rows.shape[0] * rows.shape[1]
    if isinstance(rows, ArrayRows) or not size or not _has_room(size):
        return rows
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed, and so deleted, with its last reader
    made = FileRows(file, rows.shape)
    weakref.finalize(made, file.close)
    for _ in work.map(partial(_copy_span, made, name), items, spans(len(items))):
        pass
    return made


def _has_room(size: int) -> bool:
    return shutil.disk_usage(tempfile.gettempdir()).free >= SPARE * size


def _copy_span(made: FileRows, name: str, items: Items, start: int, stop: int) -> None:
    made.put(start, items.rows[name].read(start, stop))
