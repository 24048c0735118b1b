"""Conversion of whole columns to ids, times, flags and numbers, for the cells whose meaning leaves no doubt.

`pipelines.sources.cells` has the rules for one cell. Each function here converts the cells for which a simple test
shows what the rule would give, and marks all others as not `sure`: these are converted one by one, and so get the same
value or the same refusal.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import polars as pl
import pyarrow as pa

from pipelines.sources.cells import EXACT_FLOAT, FALSE_WORDS, INT32, NULL_WORDS, TRUE_WORDS
from pipelines.sources.times import EARLIEST, EARLIEST_NUMBER, EPOCH, TimeUnit

TIME: pl.DataType = pl.Datetime("us", "UTC")
LAST_US = 253_402_300_799_999_999
"""The last of Python's times, in microseconds since 1970."""
EXACT_SECONDS = 1 << 32
"""Below this number of seconds, which lies in 2106, a float of seconds rounds to the right microsecond."""
_ID = r"^[!-*,-~](?:[ -*,-~]{0,126}[!-*,-~])?$"
"""Visible ASCII without a plus sign, which a shortened number has; blanks only inside."""
_NULL_WORD = f"(?i)^(?:{'|'.join(re.escape(word) for word in sorted(NULL_WORDS))})$"
_ISO = r"^\d{4}-\d\d-\d\d[T ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|\+00:?00| UTC)?$"
_UTC = r"(?:Z|\+00:?00| UTC)$"
_DAY = r"^\d{4}-\d\d-\d\d$"
_COUNT = r"^[1-9]\d{8,17}$"
_INTEGER = r"^-?\d{1,9}$"
_NUMBER = r"^-?\d{1,15}(?:\.\d{1,15})?$"
_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Microseconds in a unit."""


@dataclass(frozen=True)
class Converted:
    """Values of a column (null: absent), and whether each is certain."""

    values: pl.Series
    sure: pl.Series


def identifiers(column: pl.Series) -> Converted:
    """Convert to ids; the rule of one cell is `cells.identifier`."""
    if column.dtype.is_integer():
        return Converted(column.cast(pl.String), _all(column))
    if column.dtype.is_float():
        limit = EXACT_FLOAT if column.dtype == pl.Float64 else 2.0**24
        whole = column.is_not_null() & (column.abs() < limit) & (column.floor() == column)
        return _where(whole, column.cast(pl.Int64, strict=False).cast(pl.String), column)
    if column.dtype == pl.String:
        return _where(column.str.contains(_ID) & ~column.str.contains(_NULL_WORD), column, column)
    return _unsure(column, pl.String)


def booleans(column: pl.Series) -> Converted:
    """Convert to flags; the rule of one cell is `cells.boolean`."""
    if column.dtype == pl.Boolean:
        return Converted(column, _all(column))
    if column.dtype.is_integer():
        return _where(column.is_in([0, 1]), column == 1, column)
    if column.dtype == pl.String:
        lower = column.str.to_lowercase()
        return _where(lower.is_in(TRUE_WORDS | FALSE_WORDS), lower.is_in(TRUE_WORDS), column)
    return _unsure(column, pl.Boolean)


def integers(column: pl.Series) -> Converted:
    """Convert to integers of 32 bits; the rule of one cell is `cells.integer`."""
    if column.dtype.is_integer() or column.dtype.is_float():
        fits = column.is_between(INT32.start, INT32.stop - 1) & (column.floor() == column)
        return _where(fits, column.cast(pl.Int32, strict=False), column)
    if column.dtype == pl.String:
        return _where(column.str.contains(_INTEGER), column.cast(pl.Int32, strict=False), column)
    return _unsure(column, pl.Int32)


def numbers(column: pl.Series) -> Converted:
    """Convert to finite numbers; the rule of one cell is `cells.number`."""
    if column.dtype.is_float():
        return _where(column.is_finite(), column.cast(pl.Float64), column)
    if column.dtype.is_integer():
        exact = column.is_between(-(2**53), 2**53)
        return _where(exact, column.cast(pl.Float64), column)
    if column.dtype == pl.String:
        return _where(column.str.contains(_NUMBER), column.cast(pl.Float64, strict=False), column)
    return _unsure(column, pl.Float64)


def times(column: pl.Series, unit: TimeUnit) -> Converted:
    """Convert to times in UTC; the rule of one cell is `times.utc_time`."""
    if column.dtype in (pl.Datetime, pl.Date):
        return _instants(column)
    if column.dtype.is_integer():
        return _counted(column, unit, column)
    if column.dtype == pl.Float64:
        whole = (column.abs() < EXACT_FLOAT) & (column.floor() == column)
        return _counted(column.cast(pl.Int64, strict=False).set(~whole, None), unit, column)
    if column.dtype == pl.String:
        return _written(column, unit)
    return _unsure(column, TIME)


def _instants(column: pl.Series) -> Converted:
    """Convert calendar types; a time without a zone is UTC."""
    if column.dtype == pl.Date:
        stamps = column.cast(pl.Int64) * 86_400_000_000
    else:
        stamps = column.dt.replace_time_zone(None) if _zone(column) is None else column.dt.convert_time_zone("UTC")
        stamps = stamps.dt.timestamp("us")
    return _where((stamps <= LAST_US) & _meant(_stamped(stamps)), _stamped(stamps), column)


def _meant(times: pl.Series) -> pl.Series:
    """Return whether each is surely not the word of a program for a missing time."""
    return (times > EARLIEST) & (times != EPOCH)


def _zone(column: pl.Series) -> str | None:
    return getattr(column.dtype, "time_zone", None)


def _stamped(microseconds: pl.Series) -> pl.Series:
    return microseconds.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _counted(count: pl.Series, unit: TimeUnit, column: pl.Series) -> Converted:
    """Convert numbers since 1970 that are surely in a unit; `count` is null for others."""
    values, sure = pl.repeat(None, len(count), dtype=pl.Int64, eager=True), ~_all(count)
    for name, per in _UNITS.items():
        if unit not in ("auto", name):
            continue
        low, high = (1, EXACT_SECONDS) if unit == name else (EARLIEST_NUMBER, EXACT_SECONDS)
        inside = (count >= low * (1_000_000 // per)) & (count < high * (1_000_000 // per))
        if unit == "auto" and name == "ms":
            inside &= ~count.is_between(19_000_000_000_000, 21_010_000_000_000)  # a time in digits
        inside = inside.fill_null(False)
        values = (count * per).zip_with(inside & ~sure, values)
        sure |= inside
    return _where(sure, _stamped(values), column)


def _written(column: pl.Series, unit: TimeUnit) -> Converted:
    """Convert texts: ISO 8601 in UTC, dates, and numbers since 1970."""
    values, left = pl.repeat(None, len(column), dtype=TIME, eager=True), column
    for pattern, convert in ((_ISO, _moments), (_DAY, _days), (_COUNT, partial(_counts, unit=unit))):
        fits = left.str.contains(pattern).fill_null(False)
        if fits.all():
            values = convert(left)
        elif fits.any():
            values = convert(left.set(~fits, None)).zip_with(fits, values)
        left = left.set(fits, None)
        if left.null_count() == len(left):
            break
    return _where(_meant(values), values, column)


def _moments(texts: pl.Series) -> pl.Series:
    """Convert texts that match _ISO; null for days that no calendar has."""
    for bare, zone in ((texts, "UTC"), (texts.str.strip_suffix(" UTC"), None)):  # all with a zone, or all without
        try:
            return pl.Series(bare.to_arrow().cast(pa.timestamp("us", zone)).cast(pa.timestamp("us", "UTC")))
        except pa.ArrowInvalid:
            continue
    bare = texts.str.slice(0, 10) + "T" + texts.str.slice(11).str.replace(_UTC, "")
    return bare.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="us").dt.replace_time_zone("UTC")


def _days(texts: pl.Series) -> pl.Series:
    return texts.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _counts(texts: pl.Series, unit: TimeUnit) -> pl.Series:
    return _counted(texts.cast(pl.Int64, strict=False), unit, texts).values


def _all(column: pl.Series) -> pl.Series:
    return pl.repeat(True, len(column), dtype=pl.Boolean, eager=True)


def _where(sure: pl.Series, values: pl.Series, column: pl.Series) -> Converted:
    """Return the values where they are sure; an absent cell is sure to be absent."""
    known = sure.fill_null(False) & values.is_not_null()
    return Converted(values.set(~known, None) if not known.all() else values, known | column.is_null())


def _unsure(column: pl.Series, dtype: pl.DataType | type[pl.DataType]) -> Converted:
    return Converted(pl.repeat(None, len(column), dtype=dtype, eager=True), column.is_null())


Convert = Callable[[pl.Series], Converted]


Cells: TypeAlias = "pa.Array | list[Any]"
"""A column: an Arrow array, or Python values."""
_PYTHON = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def series_of(cells: Cells) -> pl.Series:
    """Return a column as a series; one that has no rule here, or cannot be taken over, keeps only what is absent."""
    if isinstance(cells, list):
        return _series_of_values(cells)
    column = cells
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not _is_plain(kind):
        return _opaque(column.is_valid())
    try:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_timestamp(kind):
            column = _in_microseconds(column, kind)
        elif pa.types.is_integer(kind):
            column = column.cast(pa.int64())
        else:
            column.validate(full=True)  # polars takes the bytes of a text for UTF-8 without a look
        return pl.Series(column)
    except Exception:  # noqa: BLE001 - whatever a column raises, its cells are converted one by one
        return _opaque(column.is_valid())


def _series_of_values(cells: list[Any]) -> pl.Series:
    kinds = {type(cell) for cell in cells} - {type(None)}
    if kinds == {int, float} and all(abs(cell) < EXACT_FLOAT for cell in cells if type(cell) is int):
        kinds = {float}  # a float without a fraction has the meaning of the integer
    if len(kinds) == 1 and (kind := _PYTHON.get(kinds.pop())) is not None:
        try:
            return pl.Series(pa.array(cells, kind))
        except (pa.ArrowException, ValueError, OverflowError):  # a number beyond 64 bits, a text beyond UTF-8
            return _opaque(pa.array([cell is not None for cell in cells]))
    return _opaque(pa.array([cell is not None for cell in cells], pa.bool_()))


def _is_plain(kind: pa.DataType) -> bool:
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_float = pa.types.is_float32(kind) or pa.types.is_float64(kind)
    is_time = pa.types.is_timestamp(kind) or pa.types.is_date32(kind)
    return bool(is_text or is_float or is_time or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _in_microseconds(column: pa.Array, kind: pa.TimestampType) -> pa.Array:
    """Return times in microseconds; raise an error for a zone that does not exist."""
    if kind.tz is not None:
        pa.lib.string_to_tzinfo(kind.tz)
    cast = column.cast(pa.timestamp("us", kind.tz), safe=kind.unit != "ns")
    return cast.cast(pa.timestamp("us", None if kind.tz is None else "UTC"))


def _opaque(present: pa.Array) -> pl.Series:
    """Return a series that holds nothing but which cells are present."""
    return pl.Series(present, dtype=pl.Boolean).replace_strict({True: b"?", False: None}, return_dtype=pl.Binary)
