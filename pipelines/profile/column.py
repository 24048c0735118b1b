"""One column of a sample: how many of its cells could be an id, a time, a flag, a number, a picture or a text.

The cells are read by the rules of ingest.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipelines.ingest.pictures.references import Reference, references
from pipelines.sources.cells import (
    Refused,
    Unreadable,
    boolean,
    identifier,
    is_absent,
    is_null_word,
    number,
    text,
)
from pipelines.sources.times import utc_time

MIN_DIMENSIONS = 8
"""Numbers in a list that may be a vector; shorter ones are more often sizes, prices or places."""
LONG_TEXT = 100
"""Characters, on average, from which a text is long."""
_PROSE_WORDS = 1.5
"""Words, on average, below which a column of nearly distinct texts counts as codes, such as ids, not as prose."""
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_WRITTEN = re.compile(rf"\[\s*{_NUMBER}(?:(?:\s*[,;]\s*|\s+){_NUMBER}){{{MIN_DIMENSIONS - 1},}}\s*\]")
"""A list of numbers as text."""
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, eq=False)
class Column:
    """The cells of a column, one for each row of the sample."""

    name: str
    cells: Sequence[Any]

    @cached_property
    def filled(self) -> list[Any]:
        """The cells that hold a value."""
        return [cell for cell in self.cells if not _is_empty(cell)]

    def share(self, rows: int) -> float:
        """Return which part of all cells some rows are."""
        return rows / len(self.cells) if self.cells else 0.0

    def of(self, rows: int, what: str) -> str:
        """Return a sentence about some of the cells."""
        return f"{rows:,} of {len(self.cells):,} rows {what}"

    @cached_property
    def ids(self) -> list[str]:
        """The ids in the cells that hold one."""
        return [found for found in map(_reader(identifier, self.name), self.cells) if found]

    @cached_property
    def kinds(self) -> Counter[str]:
        """Number of cells by id."""
        return Counter(self.ids)

    @cached_property
    def texts(self) -> list[str]:
        """The texts of the cells that hold one; lists are joined."""
        return [found for found in map(_reader(text, self.name), self.filled) if found and not is_null_word(found)]

    @cached_property
    def times(self) -> int:
        """Number of cells that are a time."""
        return self._accepted(utc_time)

    @cached_property
    def flags(self) -> int:
        """Number of cells that are a flag."""
        return self._accepted(boolean)

    @cached_property
    def numbers(self) -> int:
        """Number of cells that are a number, also as text."""
        return self._accepted(number)

    def _accepted(self, convert: Callable[[Any, str], Any]) -> int:
        return sum(found is not None for found in map(_reader(convert, self.name), self.filled))

    @cached_property
    def pictures(self) -> list[Reference]:
        """The pictures that the cells name, for cells that are no plain text without a suffix or an address."""
        return [found for cell in self.filled for found in _pictures(cell)]

    @cached_property
    def shows_pictures(self) -> bool:
        """True if most cells are bytes, or name a file with the suffix of a picture: other addresses may be pages."""
        sure = sum(isinstance(each, bytes) or _has_suffix(each) for each in self.pictures)
        return bool(self.filled) and sure > len(self.filled) / 2

    @cached_property
    def is_text(self) -> bool:
        """True if most cells are words: no numbers, flags, times, addresses, pictures, objects, or an id a row."""
        if not self.texts or any(isinstance(cell, dict | bytes) for cell in self.filled):
            return False
        if max(self.numbers, self.flags, self.times, self._addresses, len(self._objects)) > len(self.filled) / 2:
            return False
        coded = self.mean_words < _PROSE_WORDS and len(set(self.texts)) > 0.9 * len(self.texts) > 1
        return not coded and len(set(self.texts)) > 1

    @cached_property
    def _addresses(self) -> int:
        return sum("://" in found[:12] for found in self.texts)

    @cached_property
    def _objects(self) -> list[Any]:
        """The cells that hold JSON or a list of objects, which are not words."""
        return [
            cell
            for cell in self.filled
            if (isinstance(cell, str) and _is_json(cell))
            or (isinstance(cell, list | tuple) and any(isinstance(each, dict | int | float) for each in cell))
        ]

    @cached_property
    def mean_words(self) -> float:
        """Words of a text, on average."""
        return sum(len(found.split()) for found in self.texts) / max(1, len(self.texts))

    @cached_property
    def mean_characters(self) -> float:
        """Characters of a text, on average."""
        return sum(map(len, self.texts)) / max(1, len(self.texts))

    @cached_property
    def is_long(self) -> bool:
        """True if its texts are long."""
        return self.mean_characters >= LONG_TEXT

    @cached_property
    def usefulness(self) -> float:
        """Return about how many bits its texts tell of an item."""
        return self.share(len(self.texts)) * math.log2(1 + len(set(self.texts)))

    @cached_property
    def width(self) -> int | None:
        """Width of its vectors: cells that are lists of numbers, nearly all of one length."""
        widths = Counter(len(cell) for cell in self.filled if _is_vector(cell))
        if not widths:
            return None
        width, rows = widths.most_common(1)[0]
        return width if rows > 0.9 * len(self.filled) else None

    @property
    def is_written_vector(self) -> bool:
        """True if nearly all cells are texts of lists of numbers, such as `[0.1, 0.2]`, long enough for vectors."""
        written = sum(isinstance(cell, str) and _WRITTEN.fullmatch(cell) is not None for cell in self.filled)
        return written > 0.9 * len(self.filled)


def columns_of(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Column]:
    """Return the columns of some rows, by name."""
    return {name: Column(name, [row.get(name) for row in rows]) for name in names if name}


def _reader(convert: Callable[[Any, str], Any], name: str) -> Callable[[Any], Any]:
    def read(cell: Any) -> Any:
        try:
            return convert(cell, name)
        except (Refused, ValueError, TypeError, ArithmeticError, RecursionError):
            return None  # ingest would refuse the row with this cell

    return read


def _is_empty(cell: Any) -> bool:
    if isinstance(cell, str):
        return is_null_word(cell)
    if isinstance(cell, list | tuple | dict | bytes):
        return not len(cell)
    return isinstance(cell, Unreadable) or is_absent(cell)


def _is_vector(cell: Any) -> bool:
    return (
        isinstance(cell, list | tuple)
        and len(cell) >= MIN_DIMENSIONS
        and all(isinstance(each, int | float) and not isinstance(each, bool) for each in cell)
    )


def _is_json(cell: str) -> bool:
    if cell[:1] not in "[{":
        return False
    try:
        json.loads(cell)
    except (ValueError, RecursionError):
        return False
    return True


def _pictures(cell: Any) -> list[Reference]:
    if isinstance(cell, dict | list | tuple | str | bytes):
        return [each for each in references(cell) if not isinstance(each, Refused) and _looks_like_picture(each)]
    return []


def _looks_like_picture(reference: str | bytes) -> bool:
    if isinstance(reference, bytes):
        return True
    return "://" in reference or _has_suffix(reference)


def _has_suffix(reference: Reference) -> bool:
    if not isinstance(reference, str):
        return False
    return reference.startswith("data:") or reference.lower().split("?", 1)[0].endswith(_PICTURE_SUFFIXES)
