"""Ingest a log: convert its rows to events, drop repeats, hold back events of unknown items until the item arrives."""

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow as pa

from pipelines.counts import Counts
from pipelines.ingest.accounting import (
    IngestedSource,
    close_superseded,
    content_key,
    mapping_hash,
    names_of,
    naming,
    payload,
)
from pipelines.ingest.events.admission import SAME, Admission, Admitted
from pipelines.ingest.events.columns import ParsedEvents, parse
from pipelines.ingest.events.ids import Copies, content_ids
from pipelines.ingest.events.known_items import Has
from pipelines.ingest.events.pseudonyms import Pseudonyms, require_same_key
from pipelines.ingest.events.rows import EventRules
from pipelines.ingest.parts import bounds, column_names, parsed_ahead, row_count, row_numbers
from pipelines.sources.cells import Refused
from pipelines.sources.protocol import Part, Source
from pipelines.sources.row import Row
from pipelines.sources.source_spec import InteractionsSpec
from storage.commit import Provenance, append_decided
from storage.files.among import one_of
from storage.lake import Lake
from storage.quarantine import Reject, quarantine
from storage.reasons import INTERACTIONS as STAGE
from storage.reasons import Reason
from storage.schemas import INTERACTIONS

CHUNK_ROWS = 1 << 18
"""Rows of a source that are converted, admitted and written at once."""


def ingest_interactions(
    lake: Lake,
    source: Source,
    spec: InteractionsSpec,
    arrived_at: datetime,
    provenance: Provenance,
    has: Has | None = None,
) -> IngestedSource:
    """Append the events of one source; refused rows go to quarantine. Rows in = written + unchanged + quarantined.

    `unchanged` counts events that the lake already has: from an earlier reading of this source, also under another
    mapping, or delivered again by another source (such as a log exported anew with more rows). `has` returns for some
    ids whether they are certainly those of items; for the others, the catalogue is read.
    """
    counts = Counts(STAGE)
    pseudonyms = Pseudonyms.of(spec)
    require_same_key(lake, pseudonyms, provenance)
    reader = _Reader(source, spec, arrived_at, _read_before(lake, names_of(lake, source, "interactions")), pseudonyms)
    admission = Admission(lake, has)

    def recognised(part: Part) -> ParsedEvents:
        parsed = reader.parse(part)
        return replace(parsed, events=admission.recognised(parsed.events))

    refused_ids: set[str] = set()
    columns: set[str] = set()
    for part, parsed in parsed_ahead(source, spec, CHUNK_ROWS, recognised):
        with naming(source, *bounds(part)):
            columns |= column_names(part) & spec.selected_columns
            events, rejects = reader.fresh(part, parsed, counts)
            admitted = write_admitted(lake, admission, events, provenance, parsed.own_ids)
            counts.out += len(admitted.events)
            counts.unchanged += admitted.unchanged
            for event, reason, detail in admitted.refused:
                counts.refuse(reason, detail=detail)
                rejects.append(reject_event(event, reason, detail))
            quarantine(lake, rejects, provenance)
            refused_ids.update(reject.id for reject in rejects)
    stages = [counts.check()]
    close_superseded(lake, source, stages, refused_ids, provenance)
    return IngestedSource(source, "interactions", mapping_hash(spec), stages, columns=frozenset(columns))


class _Reader:
    """Reader of one source's rows, which skips those in `before` and counts those it refuses."""

    def __init__(
        self,
        source: Source,
        spec: InteractionsSpec,
        arrived_at: datetime,
        before: pl.Series,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self._source, self._rules, self._before = source, EventRules(spec, arrived_at), before
        self._pseudonyms = pseudonyms
        self._copies = Copies() if spec.repeats == "keep" else None

    def parse(self, part: Part) -> ParsedEvents:
        """Convert rows to events; the ones that have no id get the hash of their content."""
        parsed = parse(part, self._rules)
        events, lacking = parsed.events, parsed.events["event_id"].is_null()
        if self._pseudonyms is not None:
            events = events.with_columns(user_id=self._pseudonyms.names(events["user_id"]))
        if not lacking.any():
            return ParsedEvents(events, parsed.refused, parsed.own_ids)
        if self._copies is None:
            events = _with_ids(events, lacking, content_ids(events.filter(lacking)))
        return ParsedEvents(events, parsed.refused, not lacking.all())

    def fresh(self, part: Part, parsed: ParsedEvents, counts: Counts) -> tuple[pl.DataFrame, list[Reject]]:
        """Return the events and the refused rows that no earlier reading wrote; count all but the events."""
        events = parsed.events
        if self._copies is not None:
            lacking = events["event_id"].is_null()
            copies = self._copies.ids(content_ids(events.filter(lacking)))
            events = _with_ids(events, lacking, copies)
        offsets = row_numbers(part)
        before = set(offsets.filter(offsets.is_in(self._before.implode()))) if len(self._before) else set()
        counts.rows_in += row_count(part)
        counts.unchanged += len(before)
        if before:
            events = events.filter(~pl.col("source_offset").is_in(before))
        rejects = [self._reject(row, error, counts) for row, error in parsed.refused if row.number not in before]
        return events.with_columns(source=pl.lit(self._source.name)), rejects

    def _reject(self, row: Row, error: Refused, counts: Counts) -> Reject:
        values, detail = row.values, error.detail
        if self._pseudonyms is not None and error.reason != Reason.UNREADABLE_TEXT:  # which has a place, and no user
            values, detail = self._pseudonyms.of_refused(values, self._rules.spec.user_id, detail)
        counts.refuse(error.reason, row.rows, detail)
        return Reject(STAGE, error.reason, detail, self._source.name, row.number, None, payload(values))


def _with_ids(events: pl.DataFrame, lacking: pl.Series, ids: pl.Series) -> pl.DataFrame:
    """Give ids to the events that lack one."""
    if lacking.all():
        return events.with_columns(event_id=ids)
    return events.with_columns(event_id=events["event_id"].scatter(lacking.arg_true(), ids))


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
        if admitted.events.is_empty():
            return None
        kept = admitted.events
        rows = kept.with_columns(arrival_date=pl.col("arrival_time").dt.date()).select(INTERACTIONS.schema.names)
        return rows.to_arrow(), content_key("interactions", kept.select("event_id", *SAME))

    commit = append_decided(lake, "interactions", decide, provenance) if len(events) else None
    admission.written(admitted.events, commit.files if commit else ())
    return admitted


def reject_event(event: dict[str, Any], reason: str, detail: str) -> Reject:
    held = {name: event[name] for name in INTERACTIONS.schema.names if not name.startswith("arrival_")}
    return Reject(STAGE, reason, detail, event["source"], event["source_offset"], event["event_id"], _dump(held))


def _dump(event: dict[str, Any]) -> str:
    return json.dumps(event, default=lambda value: value.isoformat() if hasattr(value, "isoformat") else repr(value))
