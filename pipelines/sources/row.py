"""One row as a file gives it, and the error for an unusable file."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")


class SourceError(ValueError):
    """Raised when a source is missing, or of a kind that is not read."""


def without_blanks(names: Sequence[str], meant: Collection[str]) -> list[str]:
    """Return column names; one that equals a name of `meant` but for blanks around it becomes it, unless taken."""
    taken = set(names)
    return [bare if (bare := name.strip()) in meant and bare not in taken else name for name in names]


@dataclass(frozen=True)
class Row:
    """One row of a source, or the reason why it cannot be read.

    `columns` are all of the file if it has columns; `values` may have some of them. `rows` counts the rows of a damaged
    part of a file.
    """

    number: int
    values: dict[str, Any]
    reason: str | None = None
    detail: str = ""
    rows: int = 1
    columns: tuple[str, ...] = ()


def grouped(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of at most `size` consecutive elements."""
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch
