"""Rows of a text on their way: blocks that were read as columns, and rows that were read one by one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from pipelines.sources.row import Row

Ends = npt.NDArray[np.int64]
Folders = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class TextColumns:
    """A block of a text as columns, one row a line; `first` is the number of the first row.

    `columns` are all of the text, of which the table may hold some. `again` reads lines as rows, given the number of
    the first, for the rows that are not taken from the columns. `cut` is the number of lines above the first row.
    """

    first: int
    table: pa.Table
    columns: tuple[str, ...]
    block: bytes
    again: Callable[[int, bytes], Iterable[Row]]
    cut: int = 0

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def _ends(self) -> Ends:
        return line_ends(self.block)

    def rows(self, numbers: Ends) -> Iterator[Row]:
        """Yield the rows with these numbers, which ascend."""
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            first, last = run[0] - self.first + self.cut, run[-1] - self.first + self.cut
            start = self._ends[first - 1] if first else 0
            yield from self.again(int(run[0]), self.block[start : self._ends[last]])

    def split(self, rows: int) -> tuple["TextColumns", "TextColumns"]:
        """Return the first rows, and the others."""
        return (
            replace(self, table=self.table.slice(0, rows)),
            replace(self, table=self.table.slice(rows), first=self.first + rows, cut=self.cut + rows),
        )


@dataclass(frozen=True)
class TextRows:
    """Rows of a text: those that were read as columns, and those `alone`, one by one.

    `folders` are values of folder names, which are added to every row that lacks that column.
    """

    pieces: tuple[TextColumns, ...]
    alone: tuple[Row, ...] = ()
    folders: Folders = ()

    def __len__(self) -> int:
        return len(self.alone) + sum(map(len, self.pieces))

    @cached_property
    def table(self) -> pa.Table:
        """The rows that were read as columns."""
        table = pa.concat_tables([piece.table for piece in self.pieces], promote_options="default")
        for name, value in self.folders:
            if name not in table.schema.names:
                table = table.append_column(name, pa.array([value] * len(table), pa.string()))
        return table

    @cached_property
    def numbers(self) -> pl.Series:
        """Numbers of the rows of the table."""
        ranges = [pl.int_range(each.first, each.first + len(each), dtype=pl.Int64, eager=True) for each in self.pieces]
        return pl.concat(ranges)

    @property
    def first(self) -> int:
        """Number of the first row."""
        return min([self.pieces[0].first] + [row.number for row in self.alone[:1]])

    @property
    def last(self) -> int:
        """Number of the last row."""
        return max([each.first + len(each) - 1 for each in self.pieces] + [row.number for row in self.alone[-1:]])

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the text, as far as its pieces show."""
        return tuple(dict.fromkeys(name for piece in self.pieces for name in piece.columns))

    @property
    def names(self) -> list[str]:
        """Names of the columns that are at hand."""
        return list(self.table.schema.names)

    def head(self, rows: int) -> list[Row]:
        """Return the first rows."""
        return list(islice(self.rows(), rows))

    def of_columns(self) -> "TextRows":
        """Return the rows that were read as columns."""
        return replace(self, alone=())

    def rows(self) -> Iterator[Row]:
        """Yield all rows in order."""
        alone = [row.number for row in self.alone]
        yield from self.rows_at(sorted([*self.numbers, *alone]))

    def rows_at(self, numbers: Sequence[int]) -> list[Row]:
        """Return the rows with these numbers, in this order."""
        found = {row.number: row for row in self.alone}
        others = np.array(sorted(set(numbers) - set(found)), np.int64)
        firsts = np.searchsorted(others, [piece.first for piece in self.pieces])
        for piece, asked in zip(self.pieces, np.split(others, firsts[1:]), strict=True):
            if len(asked):
                found |= {row.number: with_folders(row, self.folders) for row in piece.rows(asked)}
        return [found[number] for number in numbers]


def with_folders(row: Row, folders: Folders) -> Row:
    """Add the values of folder names that a row lacks."""
    return row if row.reason is not None or not folders else replace(row, values={**dict(folders), **row.values})


def gathered(found: Iterable[TextColumns | Row], rows: int) -> Iterator[TextRows | list[Row]]:
    """Yield the rows in order, at most `rows` at once; those whose columns have other types begin a new part."""
    pieces, alone, count = list[TextColumns](), list[Row](), 0
    types: dict[str, pa.DataType] = {}
    for each in found:
        if isinstance(each, Row):
            alone.append(each)
            count += 1
        else:
            left = each
            if any(types.setdefault(field.name, field.type) != field.type for field in left.table.schema):
                if count:
                    yield _part(pieces, alone)
                pieces, alone, count = [], [], 0
                types = {field.name: field.type for field in left.table.schema}
            while count + len(left) > rows:
                now, left = left.split(rows - count)
                yield _part([*pieces, now] if len(now) else pieces, alone)
                pieces, alone, count = [], [], 0
            if len(left):
                pieces.append(left)
                count += len(left)
        if count == rows:
            yield _part(pieces, alone)
            pieces, alone, count = [], [], 0
    if count:
        yield _part(pieces, alone)


def _part(pieces: list[TextColumns], alone: list[Row]) -> TextRows | list[Row]:
    return TextRows(tuple(pieces), tuple(alone)) if pieces else alone


def line_ends(block: bytes) -> Ends:
    """Return the places behind the lines of a block."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
    if block and not block.endswith(b"\n"):
        ends = np.append(ends, len(block))
    return ends.astype(np.int64, copy=False)


def line_starts(ends: Ends) -> Ends:
    return np.concatenate([[0], ends[:-1]])


def has(block: bytes, text: bytes) -> bool:
    """Return whether a block has a text whose first byte is rare."""
    return text[0] in block and text in block


def array_of(block: bytes) -> npt.NDArray[Any]:
    return np.frombuffer(block, np.uint8)
