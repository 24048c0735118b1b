"""The sources that a run would read, with their rows, and which of them the lake has read before."""

from dataclasses import dataclass, field

from flows.preflight.report import READ, Report
from infra.addresses import without_secrets
from pipelines.ingest.accounting import records, unread
from pipelines.profile.sample import looked_at, row_count
from pipelines.registry import source_kind_of
from pipelines.sources.files import SourceFile
from pipelines.sources.protocol import Found, Record, RowCount, Source, Spec, check_sources
from pipelines.sources.row import SourceError
from storage.lake import Lake


@dataclass
class Planned:
    """The sources of a section that a run would read; `count` is None if their rows are unknown.

    `named` says whether any was given: one that cannot be read is no source, and a fault of its own.
    """

    section: str
    spec: Spec
    sources: list[Source] = field(default_factory=list)
    count: RowCount | None = field(default_factory=lambda: RowCount(0, exact=True))
    named: bool = False

    @property
    def rows(self) -> int:
        """Number of rows that are known; 0 if none is."""
        return self.count.rows if self.count else 0


def plan(report: Report, section: str, uris: list[str], spec: Spec, lake: Lake | None) -> Planned:
    """Find the sources at some addresses, and report their rows and faults.

    If the lake has read sources of this kind, they are read for their hashes, as a run does, to tell which are new.
    """
    found = Planned(section, spec, named=bool(uris))
    before = records(lake, section, spec) if lake is not None and lake.exists("sources") else []
    for uri in uris:
        try:
            at_address, fresh, count = _at(uri, spec, before)
        except SourceError as error:
            report.errors.append(str(error))
            continue
        report.warnings += at_address.warnings
        report.warnings += [each.broken.told for each in fresh if isinstance(each, SourceFile) and each.broken]
        _unread_folders(report, section, fresh)
        found.sources += fresh
        found.count = found.count + count if found.count and count else None
        report.add(READ, section, f"{_short(uri)}: {_told(at_address.sources, fresh, count)}")
    return found


def _at(uri: str, spec: Spec, before: list[Record]) -> tuple[Found, list[Source], RowCount | None]:
    """Return the sources at an address, those of them that are new, and the rows of these.

    Where one of several cannot be read at first sight, all are read as a run reads them, which may go on without it.
    """
    if not before:
        found = looked_at(uri, spec)
        try:
            return found, found.sources, _checked(found.sources, spec)
        except SourceError:
            if len(found.sources) < 2:
                raise
    found = source_kind_of(uri).find(uri, spec, before)
    fresh = unread(found.sources, before)
    return found, fresh, _checked(fresh, spec)


def _checked(sources: list[Source], spec: Spec) -> RowCount | None:
    check_sources(sources, spec)
    return row_count(sources, spec) if sources else RowCount(0, exact=True)


def _unread_folders(report: Report, section: str, sources: list[Source]) -> None:
    """Report columns in the names of a catalogue's folders; in a log, unread columns are usual."""
    unread = sorted({name for source in sources for name in source.unread_columns})
    if unread and section == "items":
        report.warnings.append(
            f"columns in the names of folders are not read as attributes: {', '.join(unread)}. To read them, list them "
            "in items.partitions"
        )


def _short(uri: str) -> str:
    """Return the end of an address: the folder above it and its name."""
    return "/".join(without_secrets(uri).rstrip("/").rsplit("/", 2)[-2:])


def _told(there: list[Source], fresh: list[Source], count: RowCount | None) -> str:
    sources = f"{len(there):,} files, " if len(there) > 1 else ""
    again = len(there) - len(fresh)
    if again == len(there) and there:
        return f"{sources}read before, nothing new"
    known = f", {again:,} of the files read before" if again else ""
    return f"{sources}{count if count else 'an unknown number of'} rows{known}"
