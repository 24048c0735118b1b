"""Vectors of a catalogue, in memory or in Parquet that is read a few rows at a time.

No part of the tokenizer needs all vectors at once. Work goes over spans of SPAN rows. The result of a span depends on
its rows alone, so any process may do any span in any order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokenizer.arrays.types import Floats

SPAN = 1 << 16
"""Rows of one piece of work; a multiple of `distance.BLOCK`."""
SMALLEST = 1 << 14
"""Fewest rows of a piece of work where few items are shared out."""
PIECES = 8
"""Pieces that few items are shared out in, so that all cores have work."""
LEAD = 1 << 16
"""Size of the sample of items that is kept in memory."""


class Rows(Protocol):
    """Float vectors of one source, (items, width), readable by row number."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def read(self, start: int, stop: int) -> Floats:
        """Return rows [start, stop) as float32 (stop - start, width), C-contiguous."""

    def take(self, rows: NDArray[np.int64]) -> Floats:
        """Return the rows at these ascending numbers, float32 (len(rows), width)."""


@dataclass(frozen=True)
class ArrayRows:
    """Vectors in memory, float16 to float64."""

    array: NDArray[np.floating]

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape[0], self.array.shape[1]

    def read(self, start: int, stop: int) -> Floats:
        return np.ascontiguousarray(self.array[start:stop], np.float32)

    def take(self, rows: NDArray[np.int64]) -> Floats:
        return np.ascontiguousarray(self.array[rows], np.float32)

    def put(self, start: int, vectors: Floats) -> None:
        """Set rows from `start` on."""
        self.array[start : start + len(vectors)] = vectors

    def scatter(self, rows: NDArray[np.int64], vectors: Floats) -> None:
        """Set rows at these numbers."""
        self.array[rows] = vectors


@dataclass(frozen=True)
class TakenRows:
    """Some rows of others, by their numbers. A `Rows` without a copy."""

    of: Rows
    at: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.at), self.of.shape[1]

    def read(self, start: int, stop: int) -> Floats:
        return take_any(self.of, self.at[start:stop])

    def take(self, rows: NDArray[np.int64]) -> Floats:
        return take_any(self.of, self.at[rows])


def take_any(rows: Rows, at: NDArray[np.int64]) -> Floats:
    """Return the rows at these numbers, in any order."""
    order = np.argsort(at, kind="stable")
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return rows.take(at[order])[back]


@dataclass(frozen=True)
class ParquetRows:
    """A column of equally long float lists in consecutive Parquet files; pickled as the paths."""

    paths: tuple[str, ...]
    column: str = "vector"

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...], str]]:
        return ParquetRows, (self.paths, self.column)

    @cached_property
    def _metadata(self) -> list[pq.FileMetaData]:
        return [pq.read_metadata(path) for path in self.paths]

    @cached_property
    def _groups(self) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
        """The first row of each row group and the end, and (file, group) of each."""
        places = [
            (file, group, meta.row_group(group).num_rows)
            for file, meta in enumerate(self._metadata)
            for group in range(meta.num_row_groups)
        ]
        ends = np.cumsum([0, *(rows for _, _, rows in places)])
        return ends.astype(np.int64), [(file, group) for file, group, _ in places]

    @cached_property
    def shape(self) -> tuple[int, int]:
        starts, places = self._groups
        return int(starts[-1]), self._group(0).shape[1] if places else 0

    def _group(self, number: int) -> Floats:
        """Return one row group. The file is opened each time, because two threads must not read one open file."""
        file, group = self._groups[1][number]
        opened = pq.ParquetFile(self.paths[file], metadata=self._metadata[file])
        return as_matrix(opened.read_row_group(group, [self.column], use_threads=False).column(self.column))

    def read(self, start: int, stop: int) -> Floats:
        starts, places = self._groups
        out = np.empty((stop - start, self.shape[1]), np.float32)
        first = int(np.searchsorted(starts, start, side="right")) - 1
        for number in range(first, len(places)):
            begin, end = int(starts[number]), int(starts[number + 1])
            if begin >= stop:
                break
            low, high = max(begin, start), min(end, stop)
            out[low - start : high - start] = self._group(number)[low - begin : high - begin]
        return out

    def take(self, rows: NDArray[np.int64]) -> Floats:
        starts, places = self._groups
        out = np.empty((len(rows), self.shape[1]), np.float32)
        edges = np.searchsorted(rows, starts)
        for number in range(len(places)):
            low, high = int(edges[number]), int(edges[number + 1])
            if low < high:
                out[low:high] = self._group(number)[rows[low:high] - starts[number]]
        return out


def as_matrix(column: pa.ChunkedArray) -> Floats:
    """Return a column of float lists as float32 (rows, width). Raises ValueError if the lists differ in length."""
    chunk = column.combine_chunks()
    if isinstance(chunk, pa.ChunkedArray):
        chunk = pa.concat_arrays(chunk.chunks)
    flat = chunk.flatten().to_numpy(zero_copy_only=False)
    width = chunk.type.list_size if pa.types.is_fixed_size_list(chunk.type) else len(flat) // max(1, len(chunk))
    if width * len(chunk) != len(flat) or not (
        pa.types.is_fixed_size_list(chunk.type) or np.all(np.diff(chunk.offsets.to_numpy()) == width)
    ):
        raise ValueError("the vectors of a column have different widths; write vectors of one width per source")
    return np.ascontiguousarray(flat.reshape(len(chunk), width), np.float32)


@dataclass(frozen=True)
class Block:
    """Some items: vectors by source (n, D), tie keys uint64 (n,), and the codes chosen so far int32 (n, l)."""

    vectors: Mapping[str, Floats]
    ties: NDArray[np.uint64]
    prefix: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ties)

    def part(self, rows: slice | NDArray[np.int64]) -> "Block":
        """Return the block of the given rows."""
        return Block({name: vector[rows] for name, vector in self.vectors.items()}, self.ties[rows], self.prefix[rows])


@dataclass(frozen=True)
class Items:
    """All items of a batch or catalogue in order of arrival: vectors by source, and a tie key each.

    `order` holds the rows sorted by tie key. Sequential work follows it, so results do not depend on arrival.
    """

    rows: Mapping[str, Rows]
    ties: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.ties)

    def __reduce__(self) -> tuple[Any, ...]:
        return Items, (self.rows, self.ties)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        return np.argsort(self.ties, kind="stable")

    @cached_property
    def _lead(self) -> tuple[NDArray[np.int64], dict[str, Floats]]:
        """The first LEAD rows by tie key, ascending by row, and their vectors."""
        first = np.sort(self.order[:LEAD])
        return first, {name: rows.take(first) for name, rows in self.rows.items()}

    def first(self, rows: NDArray[np.int64], prefix: NDArray[np.int32], count: int) -> Block:
        """Return a block of up to `count` (at most LEAD) of the first of `rows`, which are sorted by tie key.

        `prefix` are the codes of all items. If at least half of these rows are in the in-memory sample, only those are
        returned.
        """
        known, vectors = self._lead
        chosen = rows[: min(count, LEAD)]
        place = np.searchsorted(known, chosen)
        in_sample = np.flatnonzero(known[np.minimum(place, len(known) - 1)] == chosen)
        if 2 * len(in_sample) < len(chosen):
            return self.take(chosen, prefix[chosen])
        chosen, place = chosen[in_sample], place[in_sample]
        return Block({name: vector[place] for name, vector in vectors.items()}, self.ties[chosen], prefix[chosen])

    def read(self, start: int, stop: int, prefix: NDArray[np.int32]) -> Block:
        """Return the block of rows [start, stop), with codes so far `prefix`."""
        vectors = {name: rows.read(start, stop) for name, rows in self.rows.items()}
        return Block(vectors, self.ties[start:stop], prefix)

    def take(self, index: NDArray[np.int64], prefix: NDArray[np.int32]) -> Block:
        """Return the block of the rows at `index`, in that order, with codes so far `prefix`."""
        vectors = {name: take_any(rows, index) for name, rows in self.rows.items()}
        return Block(vectors, self.ties[index], prefix)

    def subset(self, index: NDArray[np.int64]) -> "Items":
        """Return the items at `index` alone, in that order, in memory."""
        block = self.take(index, np.empty((len(index), 0), np.int32))
        return Items({name: ArrayRows(vector) for name, vector in block.vectors.items()}, block.ties)


NOTHING = Items({}, np.empty(0, np.uint64))
"""Items of a piece of work whose tasks take along what they read."""


def spans(items: int) -> list[tuple[int, int]]:
    """Return the spans (start, stop) that cover `items` rows."""
    return [(start, min(start + SPAN, items)) for start in range(0, items, SPAN)]


def pieces(items: int) -> list[tuple[int, int]]:
    """Return parts of spans, for work whose result does not depend on their ends: all cores share few items."""
    size = SPAN
    while size > SMALLEST and size * PIECES > items:
        size //= 2
    return [(start, min(start + size, items)) for start in range(0, items, size)]
