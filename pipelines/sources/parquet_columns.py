"""Parquet: only the requested columns, in batches; rows are made cell by cell if a column holds a bad cell.

A damaged part of a file costs the rows of that part.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.cells import Half, Single, Unreadable
from pipelines.sources.row import Row, SourceError, without_blanks
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from storage.reasons import Reason

BATCH_ROWS = 4096
"""Rows of a batch in which a damaged row group is read again: those of a batch with damage are lost."""
_SHORT = {pa.float16(): Half, pa.float32(): Single}
_MAGIC = b"PAR1"
DAMAGED = (OSError, ValueError, pa.ArrowException)
"""Errors that Arrow and the file system raise for a damaged file."""


@dataclass(frozen=True)
class Columns:
    """Consecutive rows of a source as Arrow columns; `first` is the number of the first row.

    `columns` are all of the file, of which `batch` may hold some. `exact_times` is False where times in nanoseconds
    keep them.
    """

    first: int
    batch: pa.RecordBatch
    columns: tuple[str, ...]
    exact_times: bool = True

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @property
    def last(self) -> int:
        """Number of the last row."""
        return self.first + len(self) - 1

    def head(self, rows: int) -> "Columns":
        """Return the first rows."""
        return replace(self, batch=self.batch.slice(0, rows))

    @property
    def names(self) -> list[str]:
        """Names of the columns that `batch` holds."""
        return list(self.batch.schema.names)

    def rows(self, among: Sequence[int] | None = None) -> Iterator[Row]:
        """Yield the rows, or those at some places of the batch, as Python values."""
        numbers = range(len(self)) if among is None else among
        columns = [
            _cells_at(_microseconds(column) if self.exact_times else column, among) for column in self.batch.columns
        ]
        names = self.batch.schema.names
        for place, number in enumerate(numbers):
            values = {name: column[place] for name, column in zip(names, columns, strict=True)}
            yield Row(self.first + number, values, columns=self.columns)


def parquet_columns(
    stream: pa.NativeFile,
    file: str,
    spec: ItemsSpec | InteractionsSpec,
    rows: int,
    only: range | None = None,
) -> Iterator[Columns | Row]:
    """Yield the rows in batches of at most `rows`, with the columns that a mapping reads.

    `only` are the numbers of the row groups to read.

    A part that cannot be read is a Row with a reason and its number of rows.
    Raise SourceError if two columns have the name of a requested one.
    """
    if stream.size() == 0:
        return
    try:
        table = pq.ParquetFile(stream)
        schema, groups = table.schema_arrow, range(table.num_row_groups)
    except DAMAGED as error:
        yield Row(0, {"raw": file}, Reason.UNREADABLE_PARQUET, f"{file} is {_no_parquet(stream, error)}")
        return
    names = tuple(without_blanks(schema.names, spec.mapped_columns))
    wanted = _columns(schema.names, names, file, spec.selected_columns, spec.unread_columns)
    named = dict(zip(schema.names, names, strict=True))
    first = 0
    for group in groups:
        expected = table.metadata.row_group(group).num_rows
        number, first = first, first + expected
        if only is not None and group not in only:
            continue
        try:
            for batch in _batches(table, group, wanted, rows):
                renamed = batch.rename_columns([named[name] for name in batch.schema.names]) if batch.columns else batch
                yield Columns(number, renamed, names, exact_times=spec.selected_columns is not None)
                number += batch.num_rows
            if number != first:
                raise OSError(f"it gives {number - first + expected:,} rows")
        except DAMAGED as error:
            lost = first - number
            detail = f"{file}: rows {number:,} to {first - 1:,} cannot be read: {error}"
            yield Row(number, {"raw": file}, Reason.UNREADABLE_PARQUET, detail, rows=lost)


def row_groups(stream: pa.NativeFile) -> list[int]:
    """Return the rows of each row group; none of a file that is empty or cannot be read."""
    try:
        metadata = pq.ParquetFile(stream).metadata
    except DAMAGED:
        return []
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def _no_parquet(stream: pa.NativeFile, error: Exception) -> str:
    """Return why a file cannot be opened: Parquet begins and ends with the same four bytes."""
    size = stream.size()
    stream.seek(0)
    if stream.read(len(_MAGIC)) != _MAGIC:
        return "not Parquet by its first bytes, whatever its name says"
    stream.seek(max(0, size - len(_MAGIC)))
    if stream.read() != _MAGIC:
        return f"not whole: it breaks off after {size:,} bytes, before the end that a Parquet file has"
    return f"damaged: {error}"


def _batches(table: pq.ParquetFile, group: int, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield a row group in batches of `rows`; from a damaged place on in small ones, to lose as few rows as can be."""
    given = 0
    try:
        for batch in table.iter_batches(batch_size=rows, row_groups=[group], columns=columns):
            yield batch
            given += batch.num_rows
    except DAMAGED:
        if rows <= BATCH_ROWS:
            raise
        for batch in table.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=columns):
            already = min(given, batch.num_rows)
            given -= already
            if already < batch.num_rows:
                yield batch.slice(already)


def _columns(
    written: Sequence[str], names: Sequence[str], file: str, selected: frozenset[str] | None, unread: Collection[str]
) -> list[str] | None:
    """Return the columns to read, as they are written in the file; None for all."""
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    wanted = set(names) - set(unread) if selected is None else selected
    if read_twice := [name for name in twice if name in wanted]:
        raise SourceError(f"{file}: it has two columns {read_twice[0]!r}. Give every column a name of its own.")
    if selected is None and not unread:
        return None
    return [each for each, name in zip(written, names, strict=True) if name in wanted]


def _microseconds(column: pa.Array) -> pa.Array:
    """Cast times from nanoseconds, which Python's cannot hold, to microseconds."""
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        return column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return column


def _cells_at(column: pa.Array, places: Sequence[int] | None) -> list[Any]:
    if places is None:
        return python_values(column)
    try:
        return python_values(column.take(pa.array(places, pa.int64())))
    except pa.ArrowNotImplementedError:  # Arrow cannot take from every type
        return [_cell(column[place]) for place in places]


def python_values(column: pa.Array) -> list[Any]:
    """Return the cells of a column as Python values; one that cannot be converted is Unreadable."""
    try:
        found: list[Any] = column.to_pylist()
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if (short := _SHORT.get(kind)) is not None:
            return [value if value is None else short(value) for value in found]
    except Exception:  # noqa: BLE001 - whatever one cell raises, the others are read
        return [_cell(each) for each in column]
    return found


def _cell(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except Exception as error:  # noqa: BLE001 - a bad cell refuses its row only if its column is used
        return Unreadable(_why_unreadable(value.type, error), _as_text(value))


def _why_unreadable(kind: pa.DataType, error: Exception) -> str:
    if pa.types.is_timestamp(kind) and "TimeZone" in type(error).__name__:
        return f"a time in the zone {kind.tz!r}, which does not exist: write times in UTC"
    if pa.types.is_temporal(kind) and isinstance(error, OverflowError | ValueError):
        return f"a time ({kind}) beyond the years 1 to 9999"
    return f"{kind} that cannot be read ({type(error).__name__}: {error})"


def _as_text(value: pa.Scalar) -> str | None:
    """Return the text of a time beyond Python's range of years; None for other cells."""
    if not pa.types.is_temporal(value.type):
        return None
    try:
        found: str = value.cast(pa.string()).as_py()
    except Exception:  # noqa: BLE001 - such as a time zone that does not exist
        return None
    return None if "out of range" in found else found
