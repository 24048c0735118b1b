"""Rows of Parquet: only the requested columns, converted cell by cell if a column holds a bad cell.

A damaged part of a file costs the rows of that part.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.cells import Half, Single, Unreadable
from pipelines.sources.row import Row, SourceError, without_blanks
from storage.reasons import Reason

BATCH_ROWS = 4096
_SHORT = {pa.float16(): Half, pa.float32(): Single}
DAMAGED = (OSError, ValueError, pa.ArrowException)


def parquet_rows(
    stream: pa.NativeFile, file: str, asked: frozenset[str] | None, meant: Collection[str] = ()
) -> Iterator[Row]:
    """Yield every row in order, with the columns of `asked`, or all if None. `meant` names the columns with a meaning.

    Raise SourceError if two columns have the name of a requested one.
    """
    if stream.size() == 0:
        return
    try:
        table = pq.ParquetFile(stream)
        schema, groups = table.schema_arrow, range(table.num_row_groups)
    except DAMAGED as error:
        detail = f"{file} is not Parquet, or it is damaged: {error}"
        yield Row(0, {"raw": file}, Reason.UNREADABLE_PARQUET, detail)
        return
    names = tuple(without_blanks(schema.names, meant))
    columns = _columns(schema.names, names, file, asked)
    named = dict(zip(schema.names, names, strict=True))
    first = 0
    for group in groups:
        rows = table.metadata.row_group(group).num_rows
        number = first
        try:
            for batch in table.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=columns):
                for values in _values(batch, [named[name] for name in batch.schema.names], asked is not None):
                    yield Row(number, values, columns=names)
                    number += 1
            if number != first + rows:
                raise OSError(f"it gives {number - first:,} rows")
        except DAMAGED as error:
            lost = first + rows - number
            detail = f"{file}: rows {number:,} to {first + rows - 1:,} cannot be read: {error}"
            yield Row(number, {"raw": file}, Reason.UNREADABLE_PARQUET, detail, rows=lost)
        first += rows


def _columns(written: Sequence[str], names: Sequence[str], file: str, asked: frozenset[str] | None) -> list[str] | None:
    """Return the columns to read, as they are written in the file; None for all."""
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    wanted = [name for name in twice if asked is None or name in asked]
    if wanted:
        raise SourceError(f"{file}: it has two columns {wanted[0]!r}. Give every column a name of its own.")
    return None if asked is None else [each for each, name in zip(written, names, strict=True) if name in asked]


def _values(batch: pa.RecordBatch, names: list[str], exact_times: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch as values by column; a batch without columns has empty rows."""
    columns = [_cells(_microseconds(column) if exact_times else column) for column in batch.columns]
    for row in range(batch.num_rows):
        yield {name: column[row] for name, column in zip(names, columns, strict=True)}


def _microseconds(column: pa.Array) -> pa.Array:
    """Cast times from nanoseconds, which Python's cannot hold, to microseconds."""
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        return column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return column


def _cells(column: pa.Array) -> list[Any]:
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
        return Unreadable(f"{value.type} that cannot be read ({type(error).__name__}: {error})", _as_text(value))


def _as_text(value: pa.Scalar) -> str | None:
    """Return the text of a time beyond Python's range of years; None for other cells."""
    if not pa.types.is_temporal(value.type):
        return None
    try:
        found: str = value.cast(pa.string()).as_py()
    except (*DAMAGED, OverflowError):
        return None
    return None if "out of range" in found else found
