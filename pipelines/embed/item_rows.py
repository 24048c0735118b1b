"""Rows of items where they lie: in this process if they are few, else in files of the catalogue, which workers read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from storage.files.data_files import DataFile
from storage.lake import Lake
from storage.releases.catalogue import catalogue
from tokenizer.arrays.id_rows import IdRows

PART_ROWS = 1 << 16
"""Items that a worker reads at a time. The rows of so few are held by the process of a run."""
REVISION = ["item_id", "revision"]
Numbers = NDArray[np.int32]


class ItemRows(Protocol):
    """Rows of different items of the catalogue, which any process can read.

    `in_any_order` tells that they can be taken in another order than their own.
    """

    in_any_order: ClassVar[bool]

    def __len__(self) -> int: ...

    def read(self) -> pl.DataFrame:
        """Return the columns that are wanted of the rows, in their order."""

    def take(self, rows: NDArray[np.integer[Any]]) -> "ItemRows":
        """Return some of the rows, by their numbers."""


@dataclass(frozen=True)
class RowsHere:
    """Rows in memory."""

    in_any_order: ClassVar[bool] = True
    frame: pl.DataFrame

    def __len__(self) -> int:
        return self.frame.height

    def read(self) -> pl.DataFrame:
        return self.frame

    def take(self, rows: NDArray[np.integer[Any]]) -> "RowsHere":
        return RowsHere(self.frame[rows])


@dataclass(frozen=True)
class RowsOfFiles:
    """Some `columns` of rows of data files: of each file, the numbers of the rows, ascending, int32 (n,)."""

    in_any_order: ClassVar[bool] = False
    lake: Lake
    columns: tuple[str, ...]
    files: tuple[tuple[DataFile, Numbers], ...]

    def __len__(self) -> int:
        return sum(len(numbers) for _, numbers in self.files)

    def read(self) -> pl.DataFrame:
        tables = []
        for file, numbers in self.files:
            start, stop = int(numbers[0]), int(numbers[-1]) + 1
            span = self.lake.read_span("items", file, start, stop, self.columns)
            tables.append(span if len(numbers) == stop - start else span.take(pa.array(numbers - start)))
        return pl.DataFrame(pa.concat_tables(tables))

    def take(self, rows: NDArray[np.integer[Any]]) -> "RowsOfFiles":
        starts = np.cumsum([0, *(len(numbers) for _, numbers in self.files)])
        pieces = np.split(rows, np.searchsorted(rows, starts[1:-1]))
        taken = (
            (file, numbers[some - start])
            for (file, numbers), some, start in zip(self.files, pieces, starts[:-1], strict=True)
            if len(some)
        )
        return RowsOfFiles(self.lake, self.columns, tuple(taken))


@dataclass(frozen=True)
class CataloguePart:
    """Rows of some of the items of a run, and the numbers of these among all of them, int32 (n,)."""

    rows: ItemRows
    places: Numbers


def item_parts(
    lake: Lake, items: pl.DataFrame, version: int, as_of: datetime, columns: Sequence[str]
) -> tuple[CataloguePart, ...]:
    """Return where the rows of items (item_id, sorted; revision, the newest that is visible) lie in the catalogue.

    `columns` are those that will be read, `version` and `as_of` those of the snapshot. Each item is in one part.
    """
    if items.height <= PART_ROWS:
        rows = catalogue(lake, version, as_of, list(columns), items["item_id"])
        return (CataloguePart(RowsHere(rows.select(columns)), np.arange(items.height, dtype=np.int32)),)
    return tuple(_joined(lake, tuple(columns), _located(lake, items, version)))


def _located(lake: Lake, items: pl.DataFrame, version: int) -> Iterator[tuple[DataFile, Numbers, Numbers]]:
    """Yield files with the numbers of rows, at most PART_ROWS, and of the items whose newest revision these are."""
    ids = IdRows(items["item_id"].to_arrow().cast(pa.large_string()))
    newest, missing = items["revision"].to_numpy(), np.ones(items.height, np.bool_)
    for file in lake.data_files("items", version):
        before = 0
        for batch in lake.file_batches("items", [file], REVISION, ds.scalar(True), PART_ROWS):
            place = ids.find(batch.column(0).cast(pa.large_string()))
            wanted = (place >= 0) & (newest[place] == batch.column(1).to_numpy()) & missing[place]
            rows = np.flatnonzero(wanted)
            rows = rows[np.sort(np.unique(place[rows], return_index=True)[1])]
            if len(rows):
                missing[place[rows]] = False
                yield file, (rows + before).astype(np.int32), place[rows].astype(np.int32)
            before += batch.num_rows
    if missing.any():
        raise AssertionError(f"the catalogue lacks the row of {items['item_id'][int(missing.argmax())]!r}")


def _joined(
    lake: Lake, columns: tuple[str, ...], located: Iterator[tuple[DataFile, Numbers, Numbers]]
) -> Iterator[CataloguePart]:
    """Yield parts of at least PART_ROWS rows, but for the last: a part may have rows of many small files."""
    files: list[tuple[DataFile, Numbers]] = []
    places, waiting = list[Numbers](), 0
    for file, rows, place in located:
        if files and files[-1][0] is file:
            files[-1] = file, np.concatenate([files[-1][1], rows])
        else:
            files.append((file, rows))
        places.append(place)
        waiting += len(place)
        if waiting >= PART_ROWS:
            yield CataloguePart(RowsOfFiles(lake, columns, tuple(files)), np.concatenate(places))
            files, places, waiting = [], [], 0
    if files:
        yield CataloguePart(RowsOfFiles(lake, columns, tuple(files)), np.concatenate(places))
