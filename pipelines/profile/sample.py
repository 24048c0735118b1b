"""The first rows of the sources at an address, and the number of all rows, without reading the sources whole."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from pydantic import ValidationError

from pipelines.profile.presets import column_names, raw_file
from pipelines.registry import source_kind_of
from pipelines.sources.file import File
from pipelines.sources.protocol import Counted, Found, Part, RowCount, Source, Spec
from pipelines.sources.row import SourceError
from pipelines.sources.row_count import PIECE_ROWS
from pipelines.sources.source_spec import CsvSpec, InteractionsSpec, ItemsSpec
from pipelines.sources.spooled.spool import Spooled
from pipelines.sources.tables.versioned import TableVersion
from pipelines.sources.text.csv_dialect import HEAD_BYTES, other_settings

SAMPLE_ROWS = 4000
"""Rows that are looked at, over all sources."""
OTHER_QUOTES: tuple[dict[str, Any], ...] = ({"quotes": "escaped"}, {"quote": "'"})
"""How texts are written whose quotes are not the usual ones."""
MAX_SOURCES = 8
"""Most sources in a sample, spread evenly over all."""


class EveryColumn(InteractionsSpec):
    """Mapping of a log that reads all columns."""

    @property
    def selected_columns(self) -> None:  # type: ignore[override]
        """None for all columns."""
        return None

    @property
    def mapped_columns(self) -> frozenset[str]:
        """Columns that fields name by default."""
        return InteractionsSpec().mapped_columns

    @property
    def from_folders(self) -> frozenset[str]:
        """Columns that are looked for in names of folders: those with a usual name."""
        return frozenset(name for names in column_names()["interactions"].values() for name in names)


@dataclass(frozen=True)
class Sample:
    """Rows of the sources at some addresses; `whole` if these are all rows.

    `unreadable` counts rows of the sample that could not be read, the first because of `why`. `csv` is how the text
    files are written, as far as that is not the usual way. `formats` are the suffixes of files, and the kinds of other
    sources.
    """

    uris: tuple[str, ...]
    rows: list[dict[str, Any]]
    columns: tuple[str, ...]
    count: RowCount | None
    whole: bool
    unreadable: int = 0
    why: str = ""
    csv: dict[str, Any] = field(default_factory=dict)
    formats: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        read = len(self.rows) + self.unreadable
        bad = f", of which {self.unreadable:,} cannot be read" if self.unreadable else ""
        if self.whole:
            return f"all {read:,} rows{bad}"
        return f"the first {read:,} {f'of {self.count} ' if self.count else ''}rows{bad}"


def looked_at(uri: str, spec: Spec) -> Found:
    """Return the sources at an address without reading their content where their kind can do so."""
    kind = source_kind_of(uri)
    return kind.look(uri, spec) if kind.look is not None else kind.find(uri, spec, [])


def first_rows(source: Source, spec: Spec, limit: int, piece: int = PIECE_ROWS) -> Iterator[Part]:
    """Yield the first `limit` rows of a source, at most `piece` at once."""
    left = limit
    for part in source.parts(spec, min(piece, limit)):
        if len(part) > left:
            part = part[:left] if isinstance(part, list) else part.head(left)
        yield part
        left -= len(part)
        if left <= 0:
            return


def spread(sources: list[Source]) -> list[Source]:
    """Return at most MAX_SOURCES of some sources, evenly spread."""
    step = max(1, -(-len(sources) // MAX_SOURCES))
    return sources[::step]


def row_count(sources: list[Source], spec: Spec) -> RowCount | None:
    """Return the rows of all sources; None if one cannot tell. Of many files, some are asked and speak for the others.

    Raise SourceError for a source that cannot be read.
    """
    asked = spread(sources)
    total = RowCount(0, exact=True)
    for source in asked:
        if not isinstance(source, Counted):
            return None
        total += source.row_count(spec)
    if len(asked) < len(sources):
        return RowCount(round(total.rows * len(sources) / len(asked)), exact=False)
    return total


def sample(uris: list[str], section: str, given: CsvSpec | None = None) -> Sample:
    """Look at the sources at some addresses as a catalogue or a log; raise SourceError if they cannot be read.

    `given` is how CSV files are known to be written; what it leaves open is found out.
    """
    known = dict[str, Any]()
    for uri in uris:
        if raw := raw_file(uri):
            if raw.say:
                raise SourceError(f"{uri}: {raw.advice}")
            known = raw.csv
    csv = given or CsvSpec(**known)
    sources, warnings = list[Source](), list[str]()
    for uri in uris:
        found = looked_at(uri, _spec(section, csv))
        sources += found.sources
        warnings += found.warnings
    settings = {**known, **_csv_settings(sources, csv, section)}
    spec = _spec(section, csv.model_copy(update=settings))
    return _read(tuple(uris), sources, spec, settings, tuple(warnings))


def sample_with_quotes(uris: list[str], section: str) -> Sample:
    """Look at sources as `sample` does; of rows that cannot be read, find out whether their quotes are others."""
    found, fault = None, None
    try:
        found = sample(uris, section)
    except SourceError as error:
        fault = error
    if found and not found.unreadable:
        return found
    known = found.csv if found else {}
    for quotes in OTHER_QUOTES:
        with suppress(SourceError, ValidationError):
            other = sample(uris, section, CsvSpec(**{**known, **quotes}))
            if _is_better(other, found) and not ("quote" in quotes and _has_usual_quotes(other)):
                return replace(other, csv={**known, **other.csv, **quotes})
    if found is None:
        raise fault or AssertionError(uris)
    return found


def _is_better(other: Sample, found: Sample | None) -> bool:
    """Return whether nearly all rows that could not be read can be."""
    refused = found.unreadable if found else len(other.rows)
    return bool(other.rows) and other.unreadable <= refused // 10


def _has_usual_quotes(read: Sample) -> bool:
    return any(isinstance(cell, str) and cell.startswith('"') for row in read.rows for cell in row.values())


def _spec(section: str, csv: CsvSpec) -> Spec:
    return ItemsSpec(csv=csv) if section == "items" else EveryColumn(csv=csv)


def _csv_settings(sources: list[Source], csv: CsvSpec, section: str) -> dict[str, str]:
    """Return the fields of `csv` with which the first text file is read, without those that have their defaults."""
    for source in sources:
        if isinstance(source, File) and source.is_table_text:
            return other_settings(source.head(HEAD_BYTES), source.file, csv, section)
    return {}


def _read(
    uris: tuple[str, ...], sources: list[Source], spec: Spec, csv: dict[str, Any], warnings: tuple[str, ...]
) -> Sample:
    some = spread(sources)
    limit = max(1, SAMPLE_ROWS // max(1, len(some)))
    rows, columns, refused = list[dict[str, Any]](), dict[str, None](), list[str]()
    whole = len(some) == len(sources)
    for source in some:
        source.check(spec)
        for place, row in enumerate(islice(_rows(source, spec, limit + 1), limit + 1)):
            if place == limit:
                whole = False
            elif row.reason is not None:
                refused.append(f"{row.reason}: {row.detail}")
            else:
                columns |= dict.fromkeys([*row.columns, *row.values])
                rows.append(row.values)
    formats = frozenset(map(_format, some))
    count = row_count(sources, spec)
    if whole:
        count = RowCount(len(rows) + len(refused), exact=True)
    why = next(iter(refused), "")
    return Sample(uris, rows, tuple(columns), count, whole, len(refused), why, csv, formats, warnings)


def _format(source: Source) -> str:
    if isinstance(source, TableVersion):
        return source.table.kind
    if isinstance(source, File) and not isinstance(source, Spooled):
        return source.suffix
    return type(source).__name__


def _rows(source: Source, spec: Spec, limit: int) -> Iterator[Any]:
    for part in first_rows(source, spec, limit):
        yield from part if isinstance(part, list) else part.rows()
