"""Parts of a source on their way into the lake: consecutive rows, as columns or one by one."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import polars as pl

from pipelines.ingest.accounting import naming
from pipelines.ingest.cell_columns import Cells
from pipelines.sources.parquet_columns import Columns
from pipelines.sources.protocol import Part, Source, Spec
from pipelines.sources.row import Row
from pipelines.sources.text.text_rows import TextRows

T = TypeVar("T")
AHEAD = 2
"""Parts that are parsed ahead: while the hashes of one are made by another process, the next is converted."""


@dataclass(frozen=True)
class CellTable:
    """Rows as columns: Arrow arrays, or lists of Python values where the source gives its rows one by one.

    `numbers` are those of the rows.
    """

    columns: Mapping[str, Cells]
    numbers: pl.Series

    def __len__(self) -> int:
        return len(self.numbers)


def pieces_of(part: Part) -> list[Part]:
    """Return the rows of a part that were read as columns, and those that were read one by one."""
    return [part.of_columns(), list(part.alone)] if isinstance(part, TextRows) and part.alone else [part]


def in_order(frames: Sequence[pl.DataFrame], number: str) -> pl.DataFrame:
    """Return the rows of some frames, each in order, in the order of the column `number`."""
    filled = [frame for frame in frames if len(frame)] or frames[:1]
    joined = pl.concat(sorted(filled, key=lambda frame: frame[number].first() or 0))
    return joined if joined[number].is_sorted() else joined.sort(number)


def table_of(part: Part, names: Collection[str] | None) -> tuple[CellTable, list[Row]]:
    """Return the rows of a part as a table of the columns `names`, or all if None, and the rows that have no cells.

    A part of both kinds is to be split by `pieces_of` before.
    """
    if isinstance(part, Columns):
        columns = {name: part.batch.column(name) for name in part.names if names is None or name in names}
        return CellTable(columns, row_numbers(part)), []
    if isinstance(part, TextRows):
        columns = {name: part.table.column(name) for name in part.names if names is None or name in names}
        return CellTable(columns, part.numbers), []
    rows = [row for row in part if row.reason is None]
    wanted = dict.fromkeys(name for row in rows for name in row.values) if names is None else names
    lists = {name: [row.values.get(name) for row in rows] for name in wanted}
    numbers = pl.Series([row.number for row in rows], dtype=pl.Int64)
    return CellTable(lists, numbers), [row for row in part if row.reason is not None]


def parsed_ahead(source: Source, spec: Spec, rows: int, parse: Callable[[Part], T]) -> Iterator[tuple[Part, T]]:
    """Yield the parts of a source, of at most `rows` rows, in order, with what `parse` makes of them.

    The next AHEAD parts are parsed on other threads while the caller works on this one: `parse` is called by several at
    once. An error that no row owns names the file and the rows.
    """

    def named(part: Part) -> T:
        with naming(source, *bounds(part)):
            return parse(part)

    with ThreadPoolExecutor(AHEAD) as pool:
        ahead = deque[tuple[Part, Future[T]]]()
        for part in source.parts(spec, rows):
            ahead.append((part, pool.submit(named, part)))
            if len(ahead) > AHEAD:
                first, parsed = ahead.popleft()
                yield first, parsed.result()
        for part, parsed in ahead:
            yield part, parsed.result()


def bounds(part: Part) -> tuple[int, int]:
    """Return the numbers of the first and the last row."""
    return (part[0].number, part[-1].number) if isinstance(part, list) else (part.first, part.last)


def row_count(part: Part) -> int:
    """Return the number of rows, those of damaged places among them."""
    return sum(row.rows for row in part) if isinstance(part, list) else len(part)  # a text has no damaged parts


def column_names(part: Part) -> set[str]:
    """Return the names of the columns that rows of a part have, those of folders included."""
    if isinstance(part, Columns):
        return {*part.columns, *part.names}
    rows, names = (part.alone, {*part.columns, *part.names}) if isinstance(part, TextRows) else (part, set[str]())
    return names.union(*(row.values for row in rows if row.reason is None))


def row_numbers(part: Part) -> pl.Series:
    if isinstance(part, list):
        return pl.Series([row.number for row in part], dtype=pl.Int64)
    if isinstance(part, TextRows):
        alone = pl.Series([row.number for row in part.alone], dtype=pl.Int64)
        return pl.concat([part.numbers, alone]).sort()
    return pl.int_range(part.first, part.first + len(part), dtype=pl.Int64, eager=True)


def rows_at(part: Part, numbers: Sequence[int]) -> list[Row]:
    """Return the rows with these numbers, in this order."""
    if isinstance(part, list):
        by_number = {row.number: row for row in part}
        return [by_number[number] for number in numbers]
    if isinstance(part, TextRows):
        return part.rows_at(numbers)
    return list(part.rows([number - part.first for number in numbers])) if numbers else []
