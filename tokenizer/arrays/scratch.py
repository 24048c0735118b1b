"""Vectors larger than memory: plain float32 in an unnamed file that disappears with the process.

`copied` holds vectors of Parquet files, which are read many times; `scratch_rows` holds results of a run.

A file is read and written in parts, and no part stays mapped: its pages are the system's cache, not memory of the
process. Parquet is decoded at 256 MB/s on one core, which takes longer than the products on its values; a plain file in
the page cache is read at 4 GB/s. A few rows of a Parquet row group cost as much as all of them.
"""

import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.executor import Executor
from tokenizer.arrays.types import Floats
from tokenizer.arrays.vectors import ArrayRows, Items, Rows, TakenRows, spans

SPARE = 1.5
"""Free disk space required for a copy, in units of its size."""
IN_MEMORY = 1 << 25
"""Largest matrix kept in memory, in bytes."""


@dataclass(frozen=True, eq=False)
class FileRows:
    """Vectors in a file of consecutive float32 rows. A `Rows`, which other processes of this machine read too."""

    file: IO[bytes]
    shape: tuple[int, int]

    @classmethod
    def zeros(cls, rows: int, width: int) -> "FileRows":
        """Return rows of zeros in a new file."""
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed, and so deleted, with its last reader
        file.truncate(4 * rows * width)
        return cls._closing(file, (rows, width))

    @classmethod
    def _closing(cls, file: IO[bytes], shape: tuple[int, int]) -> "FileRows":
        made = cls(file, shape)
        weakref.finalize(made, file.close)
        return made

    @classmethod
    def _opened(cls, path: str, shape: tuple[int, int]) -> "FileRows":
        return cls._closing(Path(path).open("r+b", buffering=0), shape)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the place where this process has the file open, because it has no name."""
        return FileRows._opened, (f"/proc/{os.getpid()}/fd/{self.file.fileno()}", self.shape)

    def read(self, start: int, stop: int) -> Floats:
        out = np.empty((stop - start, self.shape[1]), np.float32)
        rest, at = out.reshape(-1).view(np.uint8).data, start * 4 * self.shape[1]
        while len(rest):
            got = os.preadv(self.file.fileno(), [rest], at)
            if not got:
                raise IndexError(f"rows {start} to {stop - 1} were asked for, of {self.shape[0]}")
            rest, at = rest[got:], at + got
        return out

    def take(self, rows: NDArray[np.int64]) -> Floats:
        out = np.empty((len(rows), self.shape[1]), np.float32)
        for here, start, part in self._windows(rows, mmap.ACCESS_READ):
            np.take(part, rows[here] - start, axis=0, out=out[here])
        return out

    def put(self, start: int, vectors: Floats) -> None:
        """Write rows from `start` on."""
        rest, at = np.ascontiguousarray(vectors).reshape(-1).view(np.uint8).data, start * 4 * self.shape[1]
        while len(rest):
            done = os.pwrite(self.file.fileno(), rest, at)
            rest, at = rest[done:], at + done

    def scatter(self, rows: NDArray[np.int64], vectors: Floats) -> None:
        """Write rows at these ascending numbers."""
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            self.put(int(rows[0]), vectors)
            return
        for here, start, part in self._windows(rows, mmap.ACCESS_WRITE):
            part[rows[here] - start] = vectors[here]

    def _windows(self, rows: NDArray[np.int64], access: int) -> Iterator[tuple[slice, int, Floats]]:
        """Map each span that has some of the ascending rows: the place of these in `rows`, its start, its vectors.

        Only touched pages are read, and a window is unmapped with the next one.
        """
        width = self.shape[1]
        for start, stop in spans(self.shape[0]):
            low, high = np.searchsorted(rows, [start, stop])
            if low < high:
                skipped = start * 4 * width % mmap.ALLOCATIONGRANULARITY
                bounds = {"length": (stop - start) * 4 * width + skipped, "offset": start * 4 * width - skipped}
                window = mmap.mmap(self.file.fileno(), access=access, **bounds)
                yield slice(low, high), start, np.frombuffer(window, np.float32, offset=skipped).reshape(-1, width)


ScratchRows = ArrayRows | FileRows


def scratch_rows(rows: int, width: int) -> ScratchRows:
    """Return rows of zeros, in memory, or in a file if they are many. Without disk space they are in memory."""
    size = 4 * rows * width
    if size <= IN_MEMORY or not _has_room(size):
        return ArrayRows(np.zeros((rows, width), np.float32))
    return FileRows.zeros(rows, width)


def taken_rows(vectors: Rows, rows: NDArray[np.int64]) -> Rows:
    """Return the given rows, ascending, as `scratch_rows`; the same rows if they are all.

    Rows that lie elsewhere are named, not copied.
    """
    if len(rows) == vectors.shape[0]:
        return vectors
    if not isinstance(vectors, ScratchRows):
        return TakenRows(vectors, rows)
    out = scratch_rows(len(rows), vectors.shape[1])
    for start, stop in spans(len(rows)):
        out.put(start, vectors.take(rows[start:stop]))
    return out


def copied(items: Items, work: Executor) -> Items:
    """Copy vectors that are neither in memory nor in a scratch file to one, if the disk has space; return the items."""
    sources = {name: _copy(items, name, rows, work) for name, rows in items.rows.items()}
    return Items(sources, items.ties)


def _copy(items: Items, name: str, rows: Rows, work: Executor) -> Rows:
    size = 4 * rows.shape[0] * rows.shape[1]
    if isinstance(rows, ScratchRows) or not size or not _has_room(size):
        return rows
    made = FileRows.zeros(*rows.shape)
    for _ in work.map(partial(_copy_span, made, name), items, spans(len(items))):
        pass
    return made


def _has_room(size: int) -> bool:
    return shutil.disk_usage(tempfile.gettempdir()).free >= SPARE * size


def _copy_span(made: FileRows, name: str, items: Items, start: int, stop: int) -> None:
    made.put(start, items.rows[name].read(start, stop))
