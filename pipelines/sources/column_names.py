"""Columns whose names differ from those of a recipe only in case and punctuation."""

import re
from collections.abc import Collection, Iterable

from pipelines.sources.protocol import Source, Spec


def near_columns(source: Source, spec: Spec) -> dict[str, str]:
    """Map columns that the recipe names and a source lacks to the source's columns that differ only in case or signs.

    For JSON the names are those of the first row.
    """
    first = next(source.parts(spec, 1), None)
    row = None if first is None else next(iter(first if isinstance(first, list) else first.rows()), None)
    if row is None or row.reason is not None:
        return {}
    there = [*(row.columns or row.values), *source.unread_columns]
    alike = {_bare(name): name for name in reversed(there)}
    return {name: alike[_bare(name)] for name in _lacking(spec.mapped_columns, there) if _bare(name) in alike}


def _lacking(wanted: Collection[str], there: Iterable[str]) -> list[str]:
    return sorted(set(wanted) - set(there))


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
