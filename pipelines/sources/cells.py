"""Conversion of one raw cell of any type to an id, a text, a flag or a number; it may be absent or refused.

Catalogue and log read their cells with the same functions, so an id is the same in both.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np

from infra.addresses import without_secrets
from storage.reasons import Reason

T = TypeVar("T")

NULL_WORDS = frozenset(
    {"", "null", "none", "nan", "na", "n/a", "nat", "<na>", "\\n", "-", "--", "(null)", "[null]", "<null>"}
    | {"nil", "undefined"}
    | {"#n/a", "#na", "#n/a n/a", "-nan", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"}
    | {"#value!", "#ref!", "#name?", "#num!", "#null!", "#div/0!"}
)
"""Words, in any case, with which databases, data frames, spreadsheets and logs write a missing value. A title is never
taken for one.
"""
TRUE_WORDS = frozenset({"true", "t", "yes", "y", "1", "1.0"})
FALSE_WORDS = frozenset({"false", "f", "no", "n", "0", "0.0"})
EXACT_FLOAT = 2.0**53
"""From this value on, a float does not hold every integer: an id that was read as one may be wrong."""
MAX_DEPTH = 64
"""Most levels of nested lists and objects. Deeper ones would reach the interpreter's recursion limit at a depth that
depends on the caller.
"""
MAX_ID_CHARACTERS = 1 << 14
"""With a longer id, an event that waits for its item would not fit into the quarantine payload."""
INT32 = range(-(2**31), 2**31)
SHORTENED = re.compile(r"[+-]?\d+(?:[.,]\d+)?E\+\d{1,3}", re.IGNORECASE)
"""A number as spreadsheets show and save it, without its last digits, and as R writes 100000 (`1e+05`)."""
_UNSEEN = "\0\u200b\u200c\u200d\u2060\ufeff"
"""Characters stripped from the ends of an id, besides blanks: padding, joiners, and byte order marks."""
_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
"""A number with commas between thousands; one without a point may also have a decimal comma."""
COMMA_NUMBER = re.compile(r"[+-]?\d*(\.\d{3})*,\d+")
_SCIENTIFIC = (
    "a number in scientific notation, as spreadsheets and R write long ones, and its last digits may be lost: "
    "export it in full, as text"
)
_KINDS = {
    bool: "a boolean",
    int | float | Decimal: "a number",
    str: "a text",
    bytes: "bytes",
    list | tuple | set: "a list",
    dict: "an object",
    date: "a date",
}
_LINE_BREAK = re.compile("[\n\r\x0b\x0c\x85\u2028\u2029]")
_SHOWN = 80
"""Characters of a cell that a message quotes: a line of a terminal. A cell may be of megabytes."""


class Refused(Exception):
    """Raised to refuse a row, or the image of a row, for `reason`."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, in_one_line(without_secrets(detail))
        super().__init__(f"{reason}: {self.detail}")


class Single(float):
    """A 32-bit floating-point number."""

    exact = 2.0**24
    kind: type[np.floating[Any]] = np.float32

    def as_written(self) -> str:
        """Return the shortest number that reads as this one: 19.99, where 64 bits would show 19.989999771118164."""
        return str(self.kind(self))


class Half(Single):
    """A 16-bit floating-point number."""

    exact = 2.0**11
    kind = np.float16


@dataclass(frozen=True)
class Unreadable:
    """A cell that could not be converted to a Python value: the reason, and its text if it has one."""

    why: str
    text: str | None = None


def read_cell(values: dict[str, Any], column: str | None, convert: Callable[[Any, str], T]) -> T:
    """Read a cell of a row with `convert`; any exception refuses the row and names the column.

    Without a column the cell is absent.
    """
    value, name = (None, "") if column is None else (values.get(column), column)
    try:
        return convert(value.item() if isinstance(value, np.generic) else value, name)
    except (Refused, MemoryError):
        raise
    except Exception as error:
        raise Refused(Reason.UNREADABLE_ROW, f"{name} = {shown(value)}: {type(error).__name__}: {error}") from error


def check_name(name: str) -> None:
    """Refuse a column name that UTF-8 cannot hold."""
    if not name.isascii():
        _check_utf8(name, f"the column {name!r}")


def in_one_line(message: str) -> str:
    """Return a message with its line breaks written as escapes: a name or a cell may have some."""
    return _LINE_BREAK.sub(lambda found: repr(found[0])[1:-1], message)


def kind_of(value: Any) -> str:
    """Return what a value is, as messages say it."""
    if value is None:
        return "null"
    return next((kind for types, kind in _KINDS.items() if isinstance(value, types)), f"a {type(value).__name__}")


def shown(value: Any) -> str:
    """Return a value as messages quote it: texts in quotes, others as in JSON."""
    try:
        text = _shown(value)
    except Exception as error:  # noqa: BLE001 - a value that cannot be shown must not hide the refusal that quotes it
        return f"<{type(value).__name__}: {type(error).__name__}>"
    if len(text) <= _SHOWN:
        return text
    return f"{text[:_SHOWN]}... ({len(value) if isinstance(value, str) else len(text):,} characters)"


def _shown(value: Any) -> str:
    if isinstance(value, Unreadable):
        return repr(value.text or value.why)
    if isinstance(value, bytes):
        return repr(value.decode(errors="backslashreplace"))
    if isinstance(value, bool | list | tuple | dict | None):
        try:
            return json.dumps(value, default=_shown, ensure_ascii=False)
        except TypeError:  # names that are no texts
            return repr(value)
    return str(value) if isinstance(value, int | float | Decimal | date) else repr(value)


def is_absent(value: Any) -> bool:
    """Return whether a value is None, NaN, NaT or otherwise unequal to itself."""
    return value is None or bool(value != value)


def is_null_word(text: str) -> bool:
    return text.strip().lower() in NULL_WORDS


def identifier(value: Any, column: str) -> str | None:
    """Return an id as text: a number without a fraction is the integer, bytes are UTF-8, a null word is None."""
    if is_absent(value):
        return None
    if isinstance(value, list | tuple | dict | set | bool):
        raise Refused(
            Reason.NOT_AN_ID, f"{column} = {shown(value)} is {kind_of(value)}, and this column has a text or an integer"
        )
    if isinstance(value, float) and abs(value) >= exact_below(value):
        raise Refused(Reason.NOT_AN_ID, f"{column} = {value!r} is a floating-point number that holds no exact integer")
    if isinstance(value, Decimal) and value == value.to_integral_value():
        value = f"{value:.0f}"
    found = text(float(value) if isinstance(value, Single) else value, column).strip(_UNSEEN).strip()
    if SHORTENED.fullmatch(found):
        raise Refused(Reason.NOT_AN_ID, f"{column} = {shown(found)} is {_SCIENTIFIC}")
    if len(found) > MAX_ID_CHARACTERS:
        raise Refused(Reason.NOT_AN_ID, f"{column} = {shown(found)} is longer than {MAX_ID_CHARACTERS:,} characters")
    return None if is_null_word(found) else found


def exact_below(value: float) -> float:
    """Return the value from which a float of this width does not hold every integer."""
    return value.exact if isinstance(value, Single) else EXACT_FLOAT


def boolean(value: Any, column: str) -> bool | None:
    """Return a flag: True, False, or None if absent; any other word is refused."""
    if is_absent(value):
        return None
    if isinstance(value, bool):
        return value
    if isinstance(value, Decimal) and value in (0, 1):
        return bool(value)
    word = "a list" if isinstance(value, list | tuple | dict) else text(value, column).lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    if word in NULL_WORDS:
        return None
    raise Refused(
        Reason.NOT_A_BOOLEAN,
        f"{column} = {shown(value)}; accepted are true/t/yes/y/1 and false/f/no/n/0, and an empty cell",
    )


def number(value: Any, column: str) -> float | None:
    """Return a finite number."""
    if value is None or (isinstance(value, str | bytes) and _is_null_number(text(value, column))):
        return None
    found = _float(value, column)
    if not math.isfinite(found):
        raise Refused(Reason.VALUE_NOT_FINITE, f"{column} = {found}")
    return found


def integer(value: Any, column: str) -> int | None:
    """Return an integer of 32 bits."""
    if value is None or (isinstance(value, str | bytes) and _is_null_number(text(value, column))):
        return None
    found = _float(value, column)
    if not found.is_integer():
        raise Refused(Reason.NOT_A_NUMBER, f"{column} = {shown(value)} is not a whole number")
    if int(found) not in INT32:
        raise Refused(Reason.NOT_A_NUMBER, f"{column} = {shown(value)} does not fit in 32 bits")
    return int(found)


def _is_null_number(word: str) -> bool:
    """Return whether a word is null; `NaN` is a number, which is refused later."""
    return is_null_word(word) and word.lower().lstrip("-") != "nan"


def plain_float(found: str) -> float:
    """Return the number that a text is; raise ValueError for other texts, also for those that are numbers in Python."""
    if "_" in found:
        raise ValueError(found)
    return float(found)


def _float(value: Any, column: str) -> float:
    value = _decoded(value, column) if isinstance(value, bytes) else value
    try:
        if isinstance(value, str):
            return plain_float(value)
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    hint = _commas(value.strip()) if isinstance(value, str) else ""
    if isinstance(value, Unreadable) and value.text is not None:
        hint = f": {value.why}"
    raise Refused(Reason.NOT_A_NUMBER, f"{column} = {shown(value)}{hint}")


def _commas(word: str) -> str:
    """Return what the commas of a number may be, as a message says it; empty for other texts."""
    decimal, grouped = COMMA_NUMBER.fullmatch(word), _GROUPED.fullmatch(word)
    if grouped:
        either = "a number with a decimal comma, or one " if decimal else "a number "
        return f", {either}with commas between thousands: export such a number without them"
    return ", a number with a decimal comma" if decimal else ""


def text(value: Any, column: str) -> str:
    """Return a cell as text, "" if absent or empty; lists are joined by ", ", objects and booleans are JSON."""
    if isinstance(value, list | tuple | dict):
        check_depth(value, column)
    return _text(value, column)


def values(value: Any, column: str) -> str | list[str]:
    """Return a cell as text, a list as a list of texts."""
    if isinstance(value, list | tuple):
        check_depth(value, column)
        return [found for found in (_text(each, column) for each in value) if found]
    return text(value, column)


def _text(value: Any, column: str) -> str:
    if isinstance(value, Unreadable):
        if value.text is None:
            raise Refused(Reason.UNREADABLE_ROW, f"{column}: {value.why}")
        return value.text
    if is_absent(value) or (isinstance(value, dict) and not value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(filter(None, (_text(each, column) for each in value)))
    if isinstance(value, bytes):
        value = _decoded(value, column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # an integer column with missing values is read as floats
    if isinstance(value, Single):
        value = value.as_written()
    if isinstance(value, Decimal):
        value = f"{value:f}"  # zero with ten digits behind the point would be written 0E-10
    found = _json(value, column) if isinstance(value, dict) else str(value).strip()
    _check_utf8(found, column)
    return found


def _json(value: dict[str, Any], column: str) -> str:
    def plain(inner: Any) -> str:
        return _text(inner, column) if isinstance(inner, Unreadable | Decimal) else str(inner)

    return json.dumps(value, sort_keys=True, default=plain)


def _check_utf8(found: str, column: str) -> None:
    try:
        found.encode()
    except UnicodeEncodeError as error:
        what = "a byte that is not UTF-8" if "\udc80" <= found[error.start] <= "\udcff" else "a lone surrogate"
        raise Refused(Reason.INVALID_UTF8, f"{column}: character {error.start} is {what}") from error


def _decoded(value: bytes, column: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise Refused(Reason.INVALID_UTF8, f"{column}: byte {error.start:,} of its bytes is not UTF-8") from error


def check_depth(value: Any, column: str) -> None:
    """Refuse lists and objects that are nested too deeply."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, list | tuple | dict)
        ]
        if not level:
            return
    raise Refused(Reason.UNREADABLE_ROW, f"{column}: lists and objects lie more than {MAX_DEPTH} deep in each other")
