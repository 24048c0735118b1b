"""Columns of a catalogue that become attributes and are likely to mean something else: marks of deletion, row numbers.

They are read as the recipe says. They are only told, because nobody looks for them among the attributes.
"""

import re
from collections.abc import Collection, Iterable, Iterator

import polars as pl

from pipelines.ingest.accounting import IngestedSource
from pipelines.sources.source_spec import ItemsSpec

_FLAG = re.compile(
    r"(is|was|soft|logically|mark(ed)?(for|as)?|to)?"
    r"(deleted?|deletion|removed?|discontinued|archived|tombstoned?|delisted|withdrawn|retired|obsolete|inactive|disabled)"
    r"(flag|mark|ind|indicator|yn)?"
)
"""Names, in small letters and without signs, of columns whose yes means that the item is gone."""
_OTHERWISE = re.compile(
    r"(is)?(active|enabled|available|published|live|listed|valid)(flag|yn)?"
    r"|(item|product|record|row|listing|article)?(status|availability|lifecycle)"
    r"|(cdc|dml|row)?op(eration)?|(row)?(change|operation|event|dml)(type|op)|rowkind"
    r"|(deleted|removed|discontinued|archived|delisted|retired|deletion|inactivated)(at|on|date|time|ts|timestamp)"
)
"""Names of columns that may say it in another way: by no, by a word or by a time."""
_ROW_NUMBERS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
"""Names that pandas gives to row numbers."""
SHOWN = 5
"""Most columns that a line names."""


def telling_names(columns: Collection[str], spec: ItemsSpec) -> set[str]:
    """Return the columns that a field of the recipe names, and those whose names are told."""
    return {
        name
        for name in columns
        if name in spec.not_attributes
        or is_flag(name)
        or _ROW_NUMBERS.fullmatch(name)
        or _OTHERWISE.fullmatch(_plain(name))
    }


def deletion_marks(columns: Collection[str], spec: ItemsSpec) -> tuple[str, ...]:
    """Return the columns that look like marks of deletion, flags first, where the recipe names none that is there.

    A recipe with `items.deleted = ""` says that there is none.
    """
    if not spec.deleted or spec.deleted in columns:
        return ()
    attributes = sorted(set(columns) - spec.not_attributes)
    flags = [name for name in attributes if is_flag(name)]
    return (*flags, *(name for name in attributes if not is_flag(name) and _OTHERWISE.fullmatch(_plain(name))))


def is_flag(name: str) -> bool:
    """Return whether a column with this name looks like a flag whose yes means deleted."""
    return _FLAG.fullmatch(_plain(name)) is not None


def row_numbers(columns: Collection[str], items: pl.DataFrame, spec: ItemsSpec) -> set[str]:
    """Return the columns with a name that pandas gives to row numbers and with a whole number in an item."""
    found = {name for name in columns if _ROW_NUMBERS.fullmatch(name)} - spec.not_attributes
    return {name for name in found if items["attributes"].str.contains(f'"{re.escape(name)}": "[0-9]+"').any()}


def doubtful_attributes(done: Iterable[IngestedSource]) -> Iterator[str]:
    """Yield a line for the columns of some sources that look like marks of deletion, and one for row numbers."""
    if marks := _with_first([(each.source.file, each.marks) for each in done]):
        flag = next((name for name in marks if is_flag(name)), None)
        remedy = (
            "items.deleted names a column in which yes means deleted: export one, if that is what it says"
            if flag is None
            else f'if yes in it means deleted, set items.deleted = "{flag}"'
        )
        yield (
            f"{_listed(marks)} may mark deleted items, and deletes none: {remedy}; "
            'items.deleted = "" says that there is no such column'
        )
    if numbers := _with_first([(each.source.file, each.row_numbers) for each in done]):
        left_out = ", ".join(f'"{name}"' for name in numbers)
        yield (
            f"{_listed(numbers)} has row numbers, as pandas writes them, and becomes an attribute, so items change "
            f"when their rows move: leave it out with items.leave_out = [{left_out}]"
        )


def _with_first(named: Iterable[tuple[str, tuple[str, ...]]]) -> dict[str, str]:
    """Map each column to the first file that has it, flags first."""
    found = dict[str, str]()
    for file, names in named:
        for name in names:
            found.setdefault(name, file)
    return dict(sorted(found.items(), key=lambda each: not is_flag(each[0])))


def _listed(columns: dict[str, str]) -> str:
    first = next(iter(columns.values()))
    more = f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else ""
    return f"{first}: {', '.join(map(repr, list(columns)[:SHOWN]))}{more}"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
