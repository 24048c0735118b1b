"""A row as a file gives it, and the error of a file that is not read at all."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any


class SourceError(ValueError):
    """A source is missing, or of a kind we do not read."""


def without_blanks(names: Sequence[str], meant: Collection[str]) -> list[str]:
    """The names of columns; one that is among `meant` but for blanks around it is that, where no other has its name."""
    taken = set(names)
    return [bare if (bare := name.strip()) in meant and bare not in taken else name for name in names]


@dataclass(frozen=True)
class Row:
    """A row as it stands in its source, or why it cannot be read.

    `columns` are all of the file where `values` has some of them. A damaged part of a file is one of several `rows`.
    """

    number: int
    values: dict[str, Any]
    reason: str | None = None
    detail: str = ""
    rows: int = 1
    columns: tuple[str, ...] = ()
