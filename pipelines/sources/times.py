"""Conversion of one raw cell to a time in UTC. A number counts as a time only if another meaning is unlikely."""

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from pipelines.sources.cells import Refused, Single, Unreadable, is_absent, is_null_word, plain_float, shown, text
from storage.reasons import Reason

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST_NUMBER = 631_152_000
"""1990 in seconds since 1970. A smaller number is more often a day count, a date in digits, or a sequence number."""
EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
"""Interactions are later. Programs write a missing date as the first day of a calendar: 0001-01-01, 1900-01-01."""
PER_SECOND = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Units in a second."""
ACCEPTED = (
    "accepted are 2026-09-01, 2026-09-01T08:00:00Z, 2026-09-01 10:00:00+02:00, 2026-09-01 08:00:00 UTC, and numbers "
    "since 1970 in s, ms, us or ns"
)
_ZONED_DAY = re.compile(r"[\dW-]{8,10}[+-]\d\d(:?\d\d)?")
"""A date with a zone, as XML writes it."""
_WORD_UTC = re.compile(r"\s*(UTC|GMT|Z)$", re.IGNORECASE)


def utc_time(value: Any, column: str, unit: TimeUnit = "auto") -> datetime | None:
    """Return a time in UTC, None if absent; a time without a zone is UTC.

    Numbers are since 1970 in `unit`; with "auto" in s (below 1e11), ms (below 1e14), us (below 1e17) or ns, and times
    before 1990 are refused. Times up to 1900-01-01 00:00:00, and 1970-01-01 00:00:00, are refused: they stand for a
    missing time. So is a number with an exponent that tells no single seconds.
    """
    if is_absent(value):
        return None
    try:
        found = _from_calendar(value, column)
        found = found if found is not None else _from_text(text(value, column), column, unit)
    except (ValueError, OverflowError) as error:
        raise _refused(value, column) from error
    if found is not None and (found <= EARLIEST or found == EPOCH):
        detail = f"{column} = {shown(value)}: programs write a missing time so: leave the cell empty, or write the time"
        raise Refused(Reason.EVENT_TIME_INVALID, detail)
    return found


def _from_calendar(value: Any, column: str) -> datetime | None:
    """Convert a date or a time of Python; return None for numbers and texts, raise ValueError for other types."""
    if isinstance(value, datetime):
        exact = datetime.combine(value.date(), value.timetz())  # drops the nanoseconds of pandas
        return exact.astimezone(UTC) if exact.tzinfo else exact.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, bool | list | tuple | dict | Unreadable):
        raise ValueError(value)
    if isinstance(value, Single) and abs(value) >= value.exact:
        told = "is a 32-bit float, which is off by up to minutes: export 64-bit numbers, or times"
        raise Refused(Reason.EVENT_TIME_INVALID, f"{column} = {shown(value)} {told}")
    return None


def _from_text(found: str, column: str, unit: TimeUnit) -> datetime | None:
    """Convert a text: a number since 1970 in `unit`, or ISO 8601. Return None for a word that means absent."""
    if is_null_word(found):
        return None
    try:
        number = plain_float(found)
    except ValueError:
        return _iso(found)
    if unit == "auto":
        _refuse_doubtful(number, found, column)
        unit = unit_of(number)
    if "e" in found.lower() and _last_digit(found) > PER_SECOND[unit]:
        detail = f"{column} = {shown(found)} is a number without its last digits: export it in full, or write a date"
        raise Refused(Reason.EVENT_TIME_INVALID, detail)
    if unit == "ns":  # a float does not hold all of its digits
        return EPOCH + timedelta(microseconds=int(Decimal(found)) // 1000)
    return EPOCH + timedelta(seconds=number / PER_SECOND[unit])


def _last_digit(found: str) -> float:
    """Return what one more in the last digit of a finite number adds to it."""
    mantissa, _, power = found.lower().partition("e")
    return 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))


def _iso(found: str) -> datetime:
    if _ZONED_DAY.fullmatch(found):
        raise ValueError(found)  # the zone would be parsed as the time of day
    bare = _WORD_UTC.sub("", found)
    parsed = datetime.fromisoformat(bare)
    if parsed.utcoffset() and bare != found:
        raise ValueError(found)  # two zones that contradict each other
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def unit_of(number: float) -> TimeUnit:
    """Return the unit in which a number since 1970 is a time, by its size."""
    size = abs(number)
    return "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"


def _refuse_doubtful(number: float, found: str, column: str) -> None:
    """Refuse a number that spells a date or a time in digits, or lies before 1990."""
    seconds = number / PER_SECOND[unit_of(number)]
    written = _written_in_digits(found)
    if seconds >= EARLIEST_NUMBER and written is None:
        return
    if written is not None:
        guess = f"it reads as {written}: write it with hyphens"
    elif 20_000 <= number < 80_000:
        day = datetime(1899, 12, 30, tzinfo=UTC) + timedelta(days=int(number))
        guess = f"as a day count of a spreadsheet it would be {day:%Y-%m-%d}: export it as a date"
    else:
        guess = f"since 1970 it would be {_day_of(seconds)}: write a date"
    raise Refused(Reason.EVENT_TIME_INVALID, f"{column} = {shown(found)}: {guess}")


def _written_in_digits(found: str) -> str | None:
    """Return the date or time that a number spells (20220408, 20220408123045), in ISO form; None for others."""
    digits = found.removesuffix(".0")
    layout = {8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}.get(len(digits))
    if layout is None or not digits.isdecimal() or not "1900" <= digits[:4] <= "2100":
        return None
    try:
        read = datetime.strptime(digits, layout)
    except ValueError:
        return None
    return f"{read:%Y-%m-%d}" if len(digits) == 8 else f"{read:%Y-%m-%d %H:%M:%S}"


def _day_of(seconds: float) -> str:
    try:
        return f"{EPOCH + timedelta(seconds=seconds):%Y-%m-%d}"
    except OverflowError:
        return "out of range"


def _refused(value: Any, column: str) -> Refused:
    said = value.why if isinstance(value, Unreadable) else shown(value)
    return Refused(Reason.EVENT_TIME_INVALID, f"{column} = {said}; {ACCEPTED}")
