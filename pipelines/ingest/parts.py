"""Parts of a source on their way into the lake: consecutive rows, as columns or one by one."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import polars as pl

from pipelines.ingest.cell_columns import Cells
from pipelines.sources.protocol import Part, Source, Spec
from pipelines.sources.row import Row

T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """Rows as columns: Arrow arrays, or lists of Python values where the source gives its rows one by one.

    `numbers` are those of the rows.
    """

    columns: Mapping[str, Cells]
    numbers: pl.Series

    def __len__(self) -> int:
        return len(self.numbers)


def table_of(part: Part, names: Collection[str] | None) -> tuple[Table, list[Row]]:
    """Return the rows of a part as a table of the columns `names`, or all if None, and the rows that have no cells."""
    if not isinstance(part, list):
        columns = {name: part.batch.column(name) for name in part.batch.schema.names if names is None or name in names}
        return Table(columns, row_numbers(part)), []
    rows = [row for row in part if row.reason is None]
    wanted = dict.fromkeys(name for row in rows for name in row.values) if names is None else names
    lists = {name: [row.values.get(name) for row in rows] for name in wanted}
    numbers = pl.Series([row.number for row in rows], dtype=pl.Int64)
    return Table(lists, numbers), [row for row in part if row.reason is not None]


def parsed_ahead(source: Source, spec: Spec, rows: int, parse: Callable[[Part], T]) -> Iterator[tuple[Part, T]]:
    """Yield the parts of a source, of at most `rows` rows, with what `parse` makes of them.

    The next part is parsed on another thread while the caller works on this one.
    """
    with ThreadPoolExecutor(1) as pool:
        ahead: tuple[Part, Future[T]] | None = None
        for part in source.parts(spec, rows):
            submitted = pool.submit(parse, part)
            if ahead is not None:
                yield ahead[0], ahead[1].result()
            ahead = part, submitted
        if ahead is not None:
            yield ahead[0], ahead[1].result()


def bounds(part: Part) -> tuple[int, int]:
    """Return the numbers of the first and the last row."""
    return (part[0].number, part[-1].number) if isinstance(part, list) else (part.first, part.first + len(part) - 1)


def row_count(part: Part) -> int:
    """Return the number of rows, those of damaged places among them."""
    return sum(row.rows for row in part) if isinstance(part, list) else len(part)


def row_numbers(part: Part) -> pl.Series:
    if isinstance(part, list):
        return pl.Series([row.number for row in part], dtype=pl.Int64)
    return pl.int_range(part.first, part.first + len(part), dtype=pl.Int64, eager=True)


def rows_at(part: Part, numbers: Sequence[int]) -> list[Row]:
    """Return the rows with these numbers, in this order."""
    if isinstance(part, list):
        by_number = {row.number: row for row in part}
        return [by_number[number] for number in numbers]
    return list(part.rows([number - part.first for number in numbers])) if numbers else []
