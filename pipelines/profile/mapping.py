"""Proposal of a mapping: which column of a sample is which field of a recipe, and why."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import time
from typing import Any

from infra.addresses import without_secrets
from pipelines.profile.column import Column
from pipelines.profile.presets import SectionName, column_names, recognised
from pipelines.profile.sample import Sample
from pipelines.sources.cells import Refused, identifier
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from pipelines.sources.times import TimeUnit, unit_of, utc_time

MOSTLY = 0.5
"""Share of rows whose cell has to fit for a column to be proposed; fewer are quarantined row by row."""
NEARLY_ALL = 0.98
"""Smallest share of filled cells that have to fit for a column of times, numbers or flags; of rows, for unique ids."""
MAX_KINDS = 50
"""Different values of a column of event types, at most."""
_TYPE = re.compile(r":(token|float|token_seq|float_seq)$")


@dataclass(frozen=True)
class Choice:
    """The column of a field, "" for none, and the reason in words."""

    column: str
    why: str


@dataclass
class Mapping:
    """Proposed columns by field; `lacking` says for each required field without a column what was looked for."""

    preset: str = ""
    choices: dict[str, Choice] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)
    unit: TimeUnit | None = None
    days_only: bool = False

    def column(self, name: str) -> str:
        """Return the column of a field, "" if there is none."""
        return self.choices[name].column if name in self.choices else ""


Fits = Callable[[Column], str]
"""Returns why a column may have a meaning, or "" if its cells do not fit."""


def bare(name: str) -> str:
    """Return a name without case, signs, and the type that atomic files of RecBole append."""
    return re.sub(r"[\W_]", "", _TYPE.sub("", name)).casefold()


def map_items(sample: Sample, columns: dict[str, Column]) -> Mapping:
    """Propose the mapping of a catalogue."""
    finder = _Finder("items", sample, columns)
    finder.required("item_id", _ids, [each for each in columns.values() if _unique_ids(each) and not each.is_text])
    finder.optional("title", _title, [each for each in columns.values() if each.mean_words > 1 and not each.is_long])
    finder.optional("image", _image, [each for each in columns.values() if each.shows_pictures])
    finder.optional("deleted", _flag)
    return finder.mapping


def map_interactions(sample: Sample, columns: dict[str, Column], items: Mapping, known: set[str]) -> Mapping:
    """Propose the mapping of a log of the items with these ids."""
    finder = _Finder("interactions", sample, columns)
    in_catalogue = _catalogue_ids(known)
    shared = sorted(columns.values(), key=lambda column: -len(column.kinds))
    same_name = [each for each in columns.values() if bare(each.name) == bare(items.column("item_id"))]
    finder.first("item_id", in_catalogue, [*same_name, *finder.named("item_id")])
    finder.required("item_id", _ids, [each for each in shared if _overlap(each, known) > MOSTLY])
    people = re.compile("user|customer|reader|visitor|member|reviewer|client|person")
    finder.required("user_id", _ids, [each for each in columns.values() if people.search(bare(each.name))])
    finder.required("event_time", _time, list(columns.values()))
    finder.optional("event_id", _event_id)
    finder.optional("event_type", _event_type, finder.named("event_id"))
    finder.optional("arrival_time", _time)
    for name in ("session_id", "request_id"):
        finder.optional(name, _ids)
    finder.optional("impression", _flag)
    for name in ("position", "value"):
        finder.optional(name, _number)
    if when := columns.get(finder.mapping.column("event_time")):
        finder.mapping.unit, finder.mapping.days_only = _unit(when), _are_days(when)
    return finder.mapping


class _Finder:
    """Chooses a column for each field, by the preset, then by name, then by what the cells hold."""

    def __init__(self, section: SectionName, sample: Sample, columns: dict[str, Column]) -> None:
        self._section, self._columns = section, columns
        self._names = column_names()[section]
        self._spec: ItemsSpec | InteractionsSpec = ItemsSpec() if section == "items" else InteractionsSpec()
        found = recognised(section, sample.columns)
        self._preset = found.section(section) if found else None
        self.mapping = Mapping(found.name if found else "")

    def named(self, name: str) -> list[Column]:
        """Return the columns that are called like a field, in the order of `column_names`."""
        by_name: dict[str, Column] = {}
        for column in self._columns.values():
            by_name.setdefault(bare(column.name), column)
        return [by_name[bare(each)] for each in self._names.get(name, ()) if bare(each) in by_name]

    def first(self, name: str, fits: Fits, candidates: Sequence[Column]) -> None:
        """Choose the first of some columns whose cells fit, unless a column is chosen already."""
        for column in candidates:
            if name in self.mapping.choices or column.name in self._taken:
                continue
            if why := fits(column):
                self.mapping.choices[name] = Choice(column.name, why)

    @property
    def _taken(self) -> set[str]:
        return {choice.column for choice in self.mapping.choices.values() if choice.column}

    def required(self, name: str, fits: Fits, otherwise: Sequence[Column]) -> None:
        self._by_preset(name, fits)
        self.first(name, fits, [*self.named(name), *otherwise])
        if name not in self.mapping.choices:
            self.mapping.lacking[name] = self._why_not(name)

    def _why_not(self, name: str) -> str:
        """Return why a required field has no column: by what the best-named column holds, if there is one."""
        named = [column for column in self.named(name) if column.name not in self._taken]
        if not named:
            return f"no column is called {', '.join(self._names[name][:6])} or the like, and no other one fits"
        convert = utc_time if name == "event_time" else identifier
        for cell in named[0].filled:
            try:
                convert(cell, named[0].name)
            except Refused as error:
                return f"the column {named[0].name} does not fit: {error.detail}"
        return f"the column {named[0].name} does not fit: {_found(named[0])}"

    def optional(self, name: str, fits: Fits, otherwise: Sequence[Column] = ()) -> None:
        """Choose a column if there is one; say so if the column with the default name does not fit."""
        self._by_preset(name, fits)
        if self._preset is None or name not in self._preset.settings:
            self.first(name, fits, [*self.named(name), *otherwise])
        default = str(getattr(self._spec, name))
        if name not in self.mapping.choices and default in self._columns:
            why = f"the column {default} does not fit: {_found(self._columns[default])}"
            self.mapping.choices[name] = Choice("", why)

    def _by_preset(self, name: str, fits: Fits) -> None:
        column = self._preset.columns.get(name) if self._preset else None
        if column and column in self._columns and name not in self.mapping.choices:
            self.first(name, fits, [self._columns[column]])


def _found(column: Column) -> str:
    kinds = without_secrets(", ".join(found for found, _ in column.kinds.most_common(3)))
    return f"{len(column.kinds):,} different values, such as {kinds}" if kinds else "its cells are no ids"


def _ids(column: Column) -> str:
    if column.share(len(column.ids)) <= MOSTLY:
        return ""
    return column.of(len(column.ids), f"have an id, {len(column.kinds):,} different")


def _unique_ids(column: Column) -> bool:
    return len(column.kinds) == len(column.ids) >= max(1, NEARLY_ALL * len(column.cells))


def _catalogue_ids(known: set[str]) -> Fits:
    def fits(column: Column) -> str:
        found = sum(each in known for each in column.ids)
        return column.of(found, "name an item of the catalogue's sample") if found else ""

    return fits


def _overlap(column: Column, known: set[str]) -> float:
    return column.share(sum(each in known for each in column.ids))


def _title(column: Column) -> str:
    words = column.numbers < MOSTLY * len(column.filled) and not any(isinstance(each, dict) for each in column.filled)
    return column.of(len(column.texts), "have a text") if words and not column.is_long and column.texts else ""


def _image(column: Column) -> str:
    pictures = len(column.pictures)
    return f"{pictures:,} pictures in {column.of(len(column.filled), 'with a value')}" if pictures else ""


def _flag(column: Column) -> str:
    return column.of(column.flags, "have a flag") if _mostly(column, column.flags) else ""


def _number(column: Column) -> str:
    return column.of(column.numbers, "have a number") if _mostly(column, column.numbers) else ""


def _time(column: Column) -> str:
    return column.of(column.times, "have a time") if _mostly(column, column.times, NEARLY_ALL) else ""


def _mostly(column: Column, rows: int, least: float = NEARLY_ALL) -> bool:
    return bool(column.filled) and rows >= least * len(column.filled)


def _event_id(column: Column) -> str:
    return column.of(len(column.ids), "have an id of their own") if _unique_ids(column) else ""


def _event_type(column: Column) -> str:
    if not column.kinds or len(column.kinds) > MAX_KINDS or len(column.ids) < MOSTLY * len(column.cells):
        return ""
    kinds = [f"{kind} {rows:,}" for kind, rows in column.kinds.most_common(6)]
    return without_secrets(f"types: {', '.join(kinds)}") + (" ..." if len(column.kinds) > 6 else "")


def _unit(column: Column) -> TimeUnit | None:
    """Return the unit of times that are numbers; None for others, or if the sizes differ."""
    if not column.filled or column.numbers < len(column.filled):
        return None
    found = {unit_of(float(cell)) for cell in column.filled}
    return found.pop() if len(found) == 1 else None


def _are_days(column: Column) -> bool:
    """Return whether all times are at midnight."""
    return bool(column.filled) and all(_clock(cell, column.name) == time(0) for cell in column.filled)


def _clock(cell: Any, name: str) -> time | None:
    try:
        found = utc_time(cell, name)
    except Refused:
        return None
    return found.time() if found else None
