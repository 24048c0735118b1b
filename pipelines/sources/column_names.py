"""Columns whose names differ from those of a recipe only in case and punctuation."""

import re
from collections.abc import Collection, Iterable

from pipelines.sources.files import Source
from pipelines.sources.folders import folder_columns
from pipelines.sources.reading import Spec, read_rows


def near_columns(source: Source, spec: Spec) -> dict[str, str]:
    """Map columns that the recipe names and a file lacks to the file's columns that differ only in case or signs.

    For JSON the names are those of the first row.
    """
    row = next(read_rows(source, spec), None)
    if row is None or row.reason is not None:
        return {}
    there = [*(row.columns or row.values), *(name for name, _ in folder_columns(source.path))]
    alike = {_bare(name): name for name in reversed(there)}
    return {name: alike[_bare(name)] for name in _lacking(spec.mapped_columns, there) if _bare(name) in alike}


def _lacking(wanted: Collection[str], there: Iterable[str]) -> list[str]:
    return sorted(set(wanted) - set(there))


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
