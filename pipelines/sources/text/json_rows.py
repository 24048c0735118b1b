"""Rows of JSON lines: each line is an object, or is refused and says why."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pipelines.sources.cells import Unreadable, kind_of
from pipelines.sources.row import Row
from pipelines.sources.text.json_faults import why_no_json
from storage.reasons import Reason

_HUGE = re.compile(rb"[eE]\+?0*[1-9]\d\d|\d{309}")
"""Signs of a number that 64 bits may not hold."""


def json_rows(lines: Iterable[bytes], first: int = 0) -> Iterator[Row]:
    """Yield a row for each line that is not blank; `first` is the number of the first."""
    apart = (line for each in lines for line in _apart(each) if line.strip())
    for number, line in enumerate(apart, first):
        try:
            values = _parsed(line)
        except (ValueError, RecursionError) as error:
            yield Row(number, _raw(line), Reason.INVALID_JSON, why_no_json(error))
        else:
            if isinstance(values, dict):
                yield Row(number, values)
            else:
                yield Row(number, _raw(line), Reason.INVALID_JSON, f"{kind_of(values)}, not an object")


def _apart(line: bytes) -> list[bytes]:
    """Split a line at carriage returns, which end lines in some files, unless it is JSON as a whole."""
    if line.find(b"\r", 0, -2) < 0:  # the last two bytes may be the line ending
        return [line]
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return line.split(b"\r")
    return [line]


def _parsed(line: bytes) -> Any:
    """Parse a line; bytes that are not UTF-8, and integers too long for Python, stay text.

    They matter only if their column is used. So do numbers beyond 64 bits, which cannot be read.
    """
    try:
        if not _HUGE.search(line):
            return _DECODER.decode(line.decode())
    except ValueError:  # `loads` knows other encodings, and says best what is wrong
        pass
    try:
        return json.loads(line, object_pairs_hook=_object, parse_float=_float)
    except json.JSONDecodeError:
        raise
    except ValueError:
        text = line.decode("utf-8-sig", "surrogateescape")
        return json.loads(text, object_pairs_hook=_object, parse_float=_float, parse_int=_integer)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; a name that occurs twice with different values becomes Unreadable."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = {name for name, value in pairs if value != found[name]}
        found |= dict.fromkeys(twice, Unreadable("the name comes twice, with different values"))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:
        return digits


def _float(text: str) -> float | Unreadable:
    found = float(text)
    return found if math.isfinite(found) else Unreadable("a number beyond 64-bit floating point", text)


def _raw(line: bytes) -> dict[str, Any]:
    return {"raw": line.decode("utf-8", "backslashreplace").rstrip("\n")}
