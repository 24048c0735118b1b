"""Vectors that processes of a Ray cluster read: in its object store, or in scratch files of this machine."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.compute.ray_address import foreign_address
from tokenizer.arrays.scratch import FileRows
from tokenizer.arrays.types import Floats
from tokenizer.arrays.vectors import ArrayRows, Items, Rows, TakenRows, spans


@dataclass(frozen=True)
class StoredRows:
    """Vectors in Ray's object store, one object per span: a node holds those that its tasks read. A `Rows`.

    `edges` holds the first row of each span, then the number of rows.
    """

    shape: tuple[int, int]
    edges: tuple[int, ...]
    vectors: tuple[Any, ...]

    @classmethod
    def of(cls, rows: Rows) -> "StoredRows":
        """Put rows into the object store of the cluster this process is connected to."""
        import ray

        pieces = spans(rows.shape[0])
        edges = (*(start for start, _ in pieces), rows.shape[0])
        return cls(rows.shape, edges, tuple(ray.put(rows.read(start, stop)) for start, stop in pieces))

    def read(self, start: int, stop: int) -> Floats:
        """Read rows as `Rows.read` does; rows within one span are not copied."""
        import ray

        span = bisect_right(self.edges, start) - 1
        if start < stop <= self.edges[span + 1]:
            found: Floats = ray.get(self.vectors[span])
            return found[start - self.edges[span] : stop - self.edges[span]]
        return self.take(np.arange(start, stop))

    def take(self, rows: NDArray[np.int64]) -> Floats:
        import ray

        out = np.empty((len(rows), self.shape[1]), np.float32)
        places = pairwise(np.searchsorted(rows, self.edges))
        for begin, span, (low, high) in zip(self.edges[:-1], self.vectors, places, strict=True):
            if low < high:
                out[low:high] = ray.get(span)[rows[low:high] - begin]
        return out


def shared(rows: Rows) -> Rows:
    """Return vectors that workers can read.

    Vectors in memory are put into Ray's object store, and so are those in scratch files if workers may be elsewhere.
    """
    if isinstance(rows, TakenRows):
        return TakenRows(shared(rows.of), rows.at)
    here = isinstance(rows, FileRows) and foreign_address() is None
    return StoredRows.of(rows) if isinstance(rows, ArrayRows | FileRows) and not here else rows


def shared_items(items: Items) -> Items:
    """Return items that workers can read."""
    return Items({name: shared(rows) for name, rows in items.rows.items()}, items.ties)
