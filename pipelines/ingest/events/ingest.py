"""Ingest a log: convert its rows to events, drop repeats, hold back events of unknown items until the item arrives."""

import json
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from typing import Any

import polars as pl
import pyarrow as pa

from pipelines.compute.executors import Compute
from pipelines.counts import Counts
from pipelines.ingest.accounting import IngestedSource, close_superseded, mapping_hash, names_of, naming
from pipelines.ingest.events.admission import Admission, Admitted, Refusal, event_rows
from pipelines.ingest.events.columns import ParsedEvents
from pipelines.ingest.events.judged import JudgedPart, LogJob
from pipelines.ingest.events.known_items import Has
from pipelines.ingest.events.pseudonyms import Pseudonyms, require_same_key
from pipelines.ingest.events.reader import LogReader
from pipelines.ingest.hash_set import hash_probe
from pipelines.ingest.partitions import made_in_order, partitions_for_workers
from pipelines.ingest.parts import bounds, column_names, parsed_ahead
from pipelines.sources.protocol import Part, Partitioned, Source, SourcePartition
from pipelines.sources.source_spec import InteractionsSpec
from storage.commit import Decided, Provenance, append_decided
from storage.files.among import one_of
from storage.lake import Lake
from storage.quarantine import Reject, quarantine
from storage.reasons import INTERACTIONS as STAGE
from storage.schemas import INTERACTIONS

CHUNK_ROWS = 1 << 18
"""Rows of a source that are converted, admitted and written at once."""


@dataclass(frozen=True)
class LogResources:
    """Means of an ingest of a log besides the lake.

    Workers of `compute` read the partitions of a large source. `has` returns for some ids whether they are certainly
    those of items; for the others, the catalogue is read.
    """

    compute: Compute | None = None
    has: Has | None = None


def ingest_interactions(
    lake: Lake,
    source: Source,
    spec: InteractionsSpec,
    arrived_at: datetime,
    provenance: Provenance,
    resources: LogResources = LogResources(),
) -> IngestedSource:
    """Append the events of one source; refused rows go to quarantine. Rows in = written + unchanged + quarantined.

    `unchanged` counts events that the lake already has: from an earlier reading of this source, also under another
    mapping, or delivered again by another source (such as a log exported anew with more rows). The outcome is the same
    with any `resources`.
    """
    pseudonyms = Pseudonyms.of(spec)
    require_same_key(lake, pseudonyms, provenance)
    before = _read_before(lake, names_of(lake, source, "interactions"))
    reader = LogReader(source, spec, arrived_at, before, pseudonyms)
    compute, log = resources.compute, _Log(lake, Admission(lake, resources.has), provenance)
    partitions = partitions_for_workers(lake, source, spec, compute) if reader.is_alike_everywhere else []
    if compute is not None and partitions:
        log.read_by_workers(compute, reader, partitions)
    else:
        log.read(reader)
    stages = [log.counts.check()]
    close_superseded(lake, source, stages, log.refused_ids, provenance)
    return IngestedSource(source, "interactions", mapping_hash(spec), stages, columns=frozenset(log.columns))


class _Log:
    """The log that one source is written to, with what was counted and refused so far."""

    def __init__(self, lake: Lake, admission: Admission, provenance: Provenance) -> None:
        self._lake, self._admission, self._provenance = lake, admission, provenance
        self.counts = Counts(STAGE)
        self.refused_ids, self.columns = set[str](), set[str]()

    def read(self, reader: LogReader) -> None:
        """Read the source in this process, part by part."""

        def recognised(part: Part) -> ParsedEvents:
            parsed = reader.parse(part)
            return replace(parsed, events=self._admission.recognised(parsed.events))

        for part, parsed in parsed_ahead(reader.source, reader.spec, CHUNK_ROWS, recognised):
            with naming(reader.source, *bounds(part)):
                self.columns |= column_names(part) & reader.spec.selected_columns
                events, rejects = reader.fresh(part, parsed, self.counts)
                found = write_admitted(self._lake, self._admission, events, self._provenance, parsed.own_ids)
                self.counts.out += len(found.events)
                self._settle(found.refused, found.unchanged, rejects)

    def read_by_workers(self, compute: Compute, reader: LogReader, partitions: list[SourcePartition]) -> None:
        """Have workers read, judge and write the partitions, and commit their files."""
        version = self._lake.open_or_create("interactions").version()
        self._admission.begin(version)
        job = LogJob(self._lake, reader, version, CHUNK_ROWS, hash_probe())
        with closing(made_in_order(compute, job, partitions)) as made:
            for part in chain.from_iterable(made):
                with naming(reader.source, *part.bounds):
                    self._take(part)
        assert isinstance(reader.source, Partitioned)
        reader.source.check_same()

    def _take(self, part: JudgedPart) -> None:
        """Commit what a worker wrote of a part, or judge it again."""
        self.columns |= part.columns
        self.counts.add(part.counts)
        again = write_judged(self._lake, self._admission, part, self._provenance)
        if again is None:
            self.counts.out += len(part.kept)
            self._settle(part.refusals, part.unchanged, part.rejects)
        else:
            self.counts.out += len(again.events)
            self._settle(again.refused, part.unchanged + again.unchanged, part.rejects)

    def _settle(self, refused: list[Refusal], unchanged: int, rejects: list[Reject]) -> None:
        """Count what was not written of a part, and quarantine what was refused."""
        self.counts.unchanged += unchanged
        for event, reason, detail in refused:
            self.counts.refuse(reason, detail=detail)
            rejects.append(reject_event(event, reason, detail))
        quarantine(self._lake, rejects, self._provenance)
        self.refused_ids.update(reject.id for reject in rejects)


def _read_before(lake: Lake, names: list[str]) -> pl.Series:
    """Return the row numbers of a file whose events were written by earlier readings."""
    rows = lake.read("interactions", columns=["source_offset"], where=one_of("source", names))
    return pl.Series(rows.column("source_offset"), dtype=pl.Int64)


def write_admitted(
    lake: Lake, admission: Admission, events: pl.DataFrame, provenance: Provenance, own_ids: bool = True
) -> Admitted:
    """Append the recognised events that are admitted; if another run writes meanwhile, they are judged again."""
    admitted = Admitted(events, [], 0)

    def decide(version: int) -> tuple[pa.Table, str] | None:
        nonlocal admitted
        admitted = admission.admit(events, own_ids, version)
        return event_rows(admitted.events) if len(admitted.events) else None

    commit = append_decided(lake, "interactions", decide, provenance) if len(events) else None
    admission.written(admitted.events, own_ids, commit)
    return admitted


def write_judged(lake: Lake, admission: Admission, part: JudgedPart, provenance: Provenance) -> Admitted | None:
    """Append the events that a worker judged and wrote, or if the judgement does not stand, judge and write them again.

    Return what was admitted then; None where the judgement stands.
    """
    again: Admitted | None = None

    def decide(version: int) -> Decided | None:
        nonlocal again
        if again is None and admission.confirms((part.kept, part.held_back), part.own_ids, version):
            return (part.files, part.key) if part.files else None
        again = admission.admit(part.events(lake), part.own_ids, version, part.times)
        return event_rows(again.events) if len(again.events) else None

    commit = append_decided(lake, "interactions", decide, provenance)
    if again is None:
        admission.confirmed(part.kept, part.times_kept, commit)
        return None
    admission.written(again.events, part.own_ids, commit)
    return again


def reject_event(event: dict[str, Any], reason: str, detail: str) -> Reject:
    held = {name: event[name] for name in INTERACTIONS.schema.names if not name.startswith("arrival_")}
    return Reject(STAGE, reason, detail, event["source"], event["source_offset"], event["event_id"], _dump(held))


def _dump(event: dict[str, Any]) -> str:
    return json.dumps(event, default=lambda value: value.isoformat() if hasattr(value, "isoformat") else repr(value))
