"""Numbers of a CSV file with decimal commas: a point separates thousands there."""

import re
from collections.abc import Callable

from pipelines.sources.cells import COMMA_NUMBER, Unreadable

Rewrite = Callable[[str], str | Unreadable]
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+")
"""A whole number in groups of three digits. Numbers do not begin with zero, as `0.125` does."""
_DOUBTFUL = "in a file with decimal commas, a point separates groups of three digits"


def with_point(cell: str) -> str:
    """Rewrite a number with a decimal comma with a point; return other text unchanged."""
    found = cell.strip()
    return found.replace(".", "").replace(",", ".") if "," in found and COMMA_NUMBER.fullmatch(found) else cell


def number(cell: str) -> str | Unreadable:
    """Rewrite a cell of a column of numbers, where points separate thousands.

    A number whose points separate no groups of three digits is unreadable.
    """
    found = cell.strip()
    if _THOUSANDS.fullmatch(found):
        return found.replace(".", "")
    rewritten = with_point(cell)
    if rewritten == cell and "." in cell and _is_number(cell):
        return Unreadable(_DOUBTFUL, cell)
    return rewritten


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
