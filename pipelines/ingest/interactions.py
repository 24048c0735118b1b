"""Ingest a log: validate and type its rows, drop repeats, hold back events of unknown items until the item arrives."""

import hashlib
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from pipelines.counts import Counts
from pipelines.ingest.accounting import (
    BATCH_ROWS,
    IngestedSource,
    as_refused,
    close_superseded,
    content_key,
    grouped,
    lacking,
    mapping_hash,
    names_of,
    naming,
    payload,
)
from pipelines.ingest.near_ids import near_ids
from pipelines.sources.cells import Refused, boolean, identifier, integer, number, read_cell
from pipelines.sources.files import Source
from pipelines.sources.reading import read_rows
from pipelines.sources.row import Row
from pipelines.sources.source_spec import InteractionsSpec
from pipelines.sources.times import utc_time
from storage.commit import Provenance, append
from storage.lake import Lake, one_of
from storage.quarantine import PAYLOAD_LIMIT, Reject, open_rows, quarantine, resolve
from storage.reasons import INTERACTIONS as STAGE
from storage.reasons import Reason
from storage.schemas import INTERACTIONS

_SAME = ("user_id", "item_id", "event_type", "event_time")  # fields in which a redelivered event must agree
EARLIEST, LATEST = (time.replace(tzinfo=UTC) for time in (datetime.min, datetime.max))
SAME_ID_WITHIN = timedelta(days=2)
"""Largest difference in event time at which an id counts as repeated: above any time zone error, yet few files are
read.
"""


def ingest_interactions(
    lake: Lake, source: Source, spec: InteractionsSpec, arrived_at: datetime, provenance: Provenance
) -> IngestedSource:
    """Append the events of one source; refused rows go to quarantine. Rows in = written + unchanged + quarantined.

    `unchanged` counts events that the lake already has: from an earlier reading of this source, also under another
    mapping, or delivered again by another source (such as a log exported anew with more rows).
    """
    counts = Counts(STAGE)
    reader = _Reader(source, spec, arrived_at, _given(lake, names_of(lake, source, "interactions")))
    refused_ids: set[str] = set()
    for batch in grouped(read_rows(source, spec), BATCH_ROWS):
        with naming(source, batch):
            events, rejects = reader.events(batch, counts)
            kept, refused, unchanged = _admit(lake, events)
            counts.out += len(kept)
            counts.unchanged += unchanged
            for event, reason, detail in refused:
                counts.refuse(reason, detail=detail)
                rejects.append(_reject_event(event, reason, detail))
            if kept:
                _write(lake, kept, provenance)
            quarantine(lake, rejects, provenance)
            refused_ids.update(reject.id for reject in rejects)
    stages = [counts.check()]
    close_superseded(lake, source, stages, refused_ids, provenance)
    return IngestedSource(source, "interactions", mapping_hash(spec), stages)


class _Reader:
    """Reader that makes events of one source's rows, except those in `given`, and counts refused rows."""

    def __init__(self, source: Source, spec: InteractionsSpec, arrived_at: datetime, given: set[int]) -> None:
        self._source, self._spec, self._arrived_at, self._given = source, spec, arrived_at, given
        self._now = max(arrived_at, datetime.now(UTC))
        self._times: Counter[str] = Counter()

    def events(self, batch: list[Row], counts: Counts) -> tuple[list[dict[str, Any]], list[Reject]]:
        events, rejects = [], []
        for row in batch:
            counts.rows_in += row.rows
            given = row.number in self._given
            if given:
                counts.unchanged += 1
                if self._spec.repeats == "refuse":
                    continue
            try:
                event = self._event(row)
            except Exception as raised:  # noqa: BLE001 - any exception of a row refuses only that row
                error = as_refused(raised)
                if not given:
                    counts.refuse(error.reason, row.rows, error.detail)
                    name, values = self._source.name, payload(row.values)
                    rejects.append(Reject(STAGE, error.reason, error.detail, name, row.number, None, values))
            else:
                if not given:
                    events.append(event)
        return events, rejects

    def _event(self, row: Row) -> dict[str, Any]:
        if row.reason is not None:
            raise Refused(row.reason, row.detail)
        spec, values = self._spec, row.values
        user, item = (read_cell(values, column, identifier) for column in (spec.user_id, spec.item_id))
        if user is None:
            raise Refused(Reason.MISSING_USER_ID, lacking(row, spec.user_id, "interactions.user_id"))
        if item is None:
            raise Refused(Reason.MISSING_ITEM_ID, lacking(row, spec.item_id, "interactions.item_id"))
        event_time, arrival = self._when(row)
        event: dict[str, Any] = {
            "user_id": user,
            "item_id": item,
            "event_type": read_cell(values, spec.event_type or None, identifier) or spec.default_event_type,
            "event_time": event_time,
            "arrival_time": arrival,
            "arrival_date": arrival.date(),
            "session_id": read_cell(values, spec.session_id or None, identifier),
            "request_id": read_cell(values, spec.request_id or None, identifier),
            "impression": read_cell(values, spec.impression or None, boolean),
            "position": read_cell(values, spec.position or None, integer),
            "value": read_cell(values, spec.value or None, number),
            "source": self._source.name,
            "source_offset": row.number,
        }
        return {"event_id": read_cell(values, spec.event_id or None, identifier) or self._numbered(event), **event}

    def _when(self, row: Row) -> tuple[datetime, datetime]:
        """Return event time and arrival time."""
        spec, tolerance = self._spec, timedelta(hours=self._spec.future_tolerance_hours)
        read = partial(utc_time, unit=spec.time_unit)
        event_time = read_cell(row.values, spec.event_time, read)
        if event_time is None:
            raise Refused(Reason.MISSING_EVENT_TIME, lacking(row, spec.event_time, "interactions.event_time"))
        own = read_cell(row.values, spec.arrival_time or None, read)
        arrival, came = (own, spec.arrival_time) if own else (self._arrived_at, "its arrival with this run")
        if arrival - self._now > tolerance:
            raise Refused(Reason.EVENT_IN_FUTURE, f"{came} = {arrival.isoformat()} is after this run")
        if event_time - arrival > tolerance:
            detail = f"{spec.event_time} = {event_time.isoformat()} is after {came} = {arrival.isoformat()}"
            raise Refused(Reason.EVENT_IN_FUTURE, detail)
        return event_time, arrival

    def _numbered(self, event: dict[str, Any]) -> str:
        """Return the hash of an event; if repeats are kept, further copies in a file get hashes of their own."""
        name = _event_id(event)
        if self._spec.repeats == "refuse":
            return name
        before, self._times[name] = self._times[name], self._times[name] + 1
        return hashlib.blake2b(f"{name}\0{before}".encode(), digest_size=16).hexdigest() if before else name


def _given(lake: Lake, names: list[str]) -> set[int]:
    """Return the row numbers of a file whose events were written by earlier readings."""
    rows = lake.read("interactions", columns=["source_offset"], where=one_of("source", names))
    return set(rows.column("source_offset").to_pylist())


def _waiting(lake: Lake) -> pl.DataFrame:
    """Return the events that wait for their item, except those too long to be kept whole in quarantine."""
    return open_rows(lake, reason=Reason.UNKNOWN_ITEM).filter(pl.col("payload").str.len_chars() < PAYLOAD_LIMIT)


def admit_waiting(lake: Lake, arrived_at: datetime, provenance: Provenance) -> int:
    """Write the quarantined events whose item has arrived since; return their number."""
    waiting = _waiting(lake)
    if waiting.is_empty():
        return 0
    events = [json.loads(payload) for payload in waiting["payload"]]
    known = _known_items(lake, {event["item_id"] for event in events})
    ready = waiting.filter(pl.Series([event["item_id"] in known for event in events], dtype=pl.Boolean))
    if ready.is_empty():
        return 0
    rows = [_revive(json.loads(payload), arrived_at) for payload in ready["payload"]]
    kept, refused, _ = _admit(lake, rows)
    if kept:
        _write(lake, kept, provenance)
    quarantine(lake, [_reject_event(event, reason, detail) for event, reason, detail in refused], provenance)
    resolve(lake, ready, "its item arrived", provenance)
    return len(kept)


def waiting_for_known_items(lake: Lake) -> int:
    """Return the number of quarantined events whose item is known now."""
    waiting = _waiting(lake)
    wanted = [json.loads(payload)["item_id"] for payload in waiting["payload"]]
    known = _known_items(lake, set(wanted))
    return sum(item in known for item in wanted)


def _event_id(event: dict[str, Any]) -> str:
    """Return the hash of an event's content: events that agree in it are one event, however often delivered."""
    what = ("user_id", "item_id", "event_type", "event_time", "session_id", "request_id", "impression", "position")
    name = "\0".join(str(event[column]) for column in (*what, "value"))
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _admit(
    lake: Lake, events: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], str, str]], int]:
    """Split events into those to write, those refused (event, reason, detail), and the number already stored."""
    if not events:
        return [], [], 0
    known = _known_items(lake, {event["item_id"] for event in events})
    stored = _stored_events(lake, events)
    kept: dict[str, dict[str, Any]] = {}
    refused: list[tuple[dict[str, Any], str, str]] = []
    unchanged = 0
    for event in events:
        before = stored.get(event["event_id"])
        if before is not None and any(before[name] != event[name] for name in _SAME):
            detail = f"event {event['event_id']!r} is stored with another user, item, type or time"
            refused.append((event, Reason.CONFLICTING_EVENT, detail))
        elif before is not None and (
            before["source"] != event["source"] or before["source_offset"] == event["source_offset"]
        ):
            unchanged += 1
        elif before is not None or event["event_id"] in kept:
            refused.append((event, Reason.DUPLICATE_EVENT, _again(event)))
        elif event["item_id"] not in known:
            refused.append((event, Reason.UNKNOWN_ITEM, f"item {event['item_id']!r} is not in the catalogue yet"))
        else:
            kept[event["event_id"]] = event
    return list(kept.values()), _with_near_ids(lake, refused), unchanged


def _again(event: dict[str, Any]) -> str:
    """Explain why an event repeats an earlier row: the same given id, or the same content."""
    if event["event_id"] != _event_id(event):
        return f"event {event['event_id']!r} is in this source already"
    what = f"user {event['user_id']!r}, item {event['item_id']!r} at {event['event_time']}"
    return f"{what} is in this source already, the same in all that is kept of a row"


def _with_near_ids(lake: Lake, refused: list[tuple[dict[str, Any], str, str]]) -> list[tuple[dict[str, Any], str, str]]:
    """Return the refused events; those whose item has another spelling in the catalogue say so and come first."""
    unknown = [event["item_id"] for event, reason, _ in refused if reason == Reason.UNKNOWN_ITEM]
    near = near_ids(unknown, partial(_known_items, lake)) if unknown else {}
    if not near:
        return refused

    def told(event: dict[str, Any], reason: str, detail: str) -> tuple[dict[str, Any], str, str]:
        hint = near.get(event["item_id"]) if reason == Reason.UNKNOWN_ITEM else None
        return event, reason, f"{detail}; {hint}" if hint else detail

    return sorted((told(*each) for each in refused), key=lambda each: each[0]["item_id"] not in near)


def _known_items(lake: Lake, items: set[str]) -> set[str]:
    rows = lake.read("items", columns=["item_id"], where=one_of("item_id", sorted(items)))
    return set(rows.column("item_id").to_pylist())


def _stored_events(lake: Lake, events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return these events as stored; only events within SAME_ID_WITHIN of their event times are read."""
    times = [event["event_time"] for event in events]
    first = max(min(times), EARLIEST + SAME_ID_WITHIN) - SAME_ID_WITHIN
    last = min(max(times), LATEST - SAME_ID_WITHIN) + SAME_ID_WITHIN
    where = (ds.field("event_time") >= first) & (ds.field("event_time") <= last)
    wanted = pa.array([event["event_id"] for event in events])
    columns = ["event_id", "source", "source_offset", *_SAME]
    rows = lake.read("interactions", columns=columns, where=where & one_of("event_id", wanted))
    return {row["event_id"]: row for row in rows.to_pylist()}


def _write(lake: Lake, events: list[dict[str, Any]], provenance: Provenance) -> None:
    key = content_key("interactions", sorted((event["event_id"], *(event[name] for name in _SAME)) for event in events))
    append(lake, "interactions", pa.Table.from_pylist(events, schema=INTERACTIONS.schema), key, provenance)


def _reject_event(event: dict[str, Any], reason: str, detail: str) -> Reject:
    held = {name: value for name, value in event.items() if name not in ("arrival_time", "arrival_date")}
    return Reject(STAGE, reason, detail, event["source"], event["source_offset"], event["event_id"], _dump(held))


def _revive(event: dict[str, Any], arrived_at: datetime) -> dict[str, Any]:
    """Convert a quarantined event to a row again. It arrives when it is admitted, so no older release sees it."""
    return {
        **event,
        "event_time": datetime.fromisoformat(event["event_time"]),
        "arrival_time": arrived_at,
        "arrival_date": arrived_at.date(),
    }


def _dump(event: dict[str, Any]) -> str:
    return json.dumps(event, default=lambda value: value.isoformat() if hasattr(value, "isoformat") else repr(value))
