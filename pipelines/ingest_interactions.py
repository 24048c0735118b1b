"""Ingest a log: validate and type its rows, drop repeats, hold back events of unknown items until the item arrives."""

import hashlib
import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from pipelines.ingest import (
    BATCH_ROWS,
    Counts,
    IngestedSource,
    Refused,
    close_superseded,
    content_key,
    grouped,
    lacking,
    mapping_hash,
    names_of,
)
from pipelines.sources import Row, Source, read_rows
from pipelines.spec import InteractionsSpec
from storage.commit import Provenance, append
from storage.lake import Lake, one_of
from storage.quarantine import Reject, open_rows, quarantine, resolve
from storage.schemas import INTERACTIONS

STAGE = "ingest interactions"
UNKNOWN_ITEM = "unknown_item"
_TRUE = {"1", "1.0", "true", "t", "yes", "y"}
_SAME = ("user_id", "item_id", "event_type", "event_time")  # what an event that is delivered again must agree in
EARLIEST, LATEST = (time.replace(tzinfo=UTC) for time in (datetime.min, datetime.max))
SAME_ID_WITHIN = timedelta(days=2)
"""How far off in event time an id is known again: more than any error of time zones, and no more than some files."""


def ingest_interactions(
    lake: Lake, source: Source, spec: InteractionsSpec, arrived_at: datetime, provenance: Provenance
) -> IngestedSource:
    """Append the events of one source; refused rows go to quarantine. Rows in = written + unchanged + quarantined.

    `unchanged` are events that the lake has already: from an earlier reading of this source, under another mapping
    too, or delivered again by another (a log that is exported anew with more rows).
    """
    counts = Counts(STAGE)
    given = _given(lake, names_of(lake, source, "interactions"))
    refused_ids: set[str] = set()
    for batch in grouped(read_rows(source), BATCH_ROWS):
        rejects: list[tuple[Row, Refused]] = []
        events: list[dict[str, Any]] = []
        for row in batch:
            counts.rows_in += 1
            if row.number in given:
                counts.unchanged += 1
                continue
            try:
                events.append(_event(row, source, spec, arrived_at))
            except Refused as error:
                rejects.append((row, error))
        kept, refused, unchanged = _admit(lake, events)
        counts.out += len(kept)
        counts.unchanged += unchanged
        for _, fault in rejects:
            counts.refuse(fault.reason, detail=fault.detail)
        for _, reason, detail in refused:
            counts.refuse(reason, detail=detail)
        if kept:
            _write(lake, kept, provenance)
        rows = [
            *(
                Reject(STAGE, fault.reason, fault.detail, source.name, row.number, None, _dump(row.values))
                for row, fault in rejects
            ),
            *(_reject_event(event, reason, detail) for event, reason, detail in refused),
        ]
        quarantine(lake, rows, provenance)
        refused_ids.update(reject.id for reject in rows)
    stages = [counts.check()]
    close_superseded(lake, source, stages, refused_ids, provenance)
    return IngestedSource(source, "interactions", mapping_hash(spec), stages)


def _given(lake: Lake, names: list[str]) -> set[int]:
    """The rows of a file whose events earlier readings of it wrote."""
    rows = lake.read("interactions", columns=["source_offset"], where=one_of("source", names))
    return set(rows.column("source_offset").to_pylist())


def admit_waiting(lake: Lake, arrived_at: datetime, provenance: Provenance) -> int:
    """Let in the quarantined events whose item has arrived since; returns how many were let in."""
    waiting = open_rows(lake, reason=UNKNOWN_ITEM)
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
    """How many quarantined events could be let in now."""
    waiting = open_rows(lake, reason=UNKNOWN_ITEM)
    wanted = [json.loads(payload)["item_id"] for payload in waiting["payload"]]
    known = _known_items(lake, set(wanted))
    return sum(item in known for item in wanted)


def _event(row: Row, source: Source, spec: InteractionsSpec, arrived_at: datetime) -> dict[str, Any]:
    if row.reason is not None:
        raise Refused(row.reason, row.detail)
    get = row.values.get
    user, item = _identifier(get(spec.user_id)), _identifier(get(spec.item_id))
    if not user:
        raise Refused("missing_user_id", lacking(row.values, spec.user_id, "interactions.user_id"))
    if not item:
        raise Refused("missing_item_id", lacking(row.values, spec.item_id, "interactions.item_id"))
    event_time = _time(get(spec.event_time), spec.event_time)
    if event_time is None:
        raise Refused("missing_event_time", lacking(row.values, spec.event_time, "interactions.event_time"))
    arrival = _time(get(spec.arrival_time), spec.arrival_time) or arrived_at
    if event_time > arrival + timedelta(hours=spec.future_tolerance_hours):
        raise Refused("event_in_future", f"event time {event_time.isoformat()}, arrived {arrival.isoformat()}")
    value = _number(get(spec.value), spec.value, float)
    if value is not None and not math.isfinite(value):
        raise Refused("value_not_finite", f"{spec.value} = {value}")
    impression = get(spec.impression)
    event: dict[str, Any] = {
        "user_id": user,
        "item_id": item,
        "event_type": _identifier(get(spec.event_type)) or spec.default_event_type,
        "event_time": event_time,
        "arrival_time": arrival,
        "arrival_date": arrival.date(),
        "session_id": _identifier(get(spec.session_id)) or None,
        "request_id": _identifier(get(spec.request_id)) or None,
        "impression": None if impression in (None, "") else str(impression).lower() in _TRUE,
        "position": _number(get(spec.position), spec.position, _whole),
        "value": value,
        "source": source.name,
        "source_offset": row.number,
    }
    return {"event_id": _identifier(get(spec.event_id)) or _event_id(event), **event}


def _event_id(event: dict[str, Any]) -> str:
    """Events that agree in everything that happened are one event, however often they are delivered."""
    what = ("user_id", "item_id", "event_type", "event_time", "session_id", "request_id", "impression", "position")
    name = "\0".join(str(event[column]) for column in (*what, "value"))
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _identifier(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of integers with gaps reads as floats
    text = str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Refused("invalid_utf8", f"character {error.start} is a lone surrogate") from error
    return text


def _number(value: Any, column: str, kind: Callable[[Any], Any]) -> Any:
    if value is None or value == "":
        return None
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused("not_a_number", f"{column} = {value!r}") from error


def _whole(value: Any) -> int:
    number = float(value)
    if not number.is_integer():
        raise ValueError(value)
    return int(number)


def _time(value: Any, column: str) -> datetime | None:
    """A time in UTC; numbers are since 1970 in s (below 1e11), ms (below 1e14) or us."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        try:
            number = float(value)
        except ValueError:
            parsed = datetime.fromisoformat(str(value).strip())
            return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        scale = 1 if abs(number) < 1e11 else 1e3 if abs(number) < 1e14 else 1e6
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=number / scale)
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused("event_time_invalid", f"{column} = {value!r}") from error


def _admit(
    lake: Lake, events: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], str, str]], int]:
    """Splits events into those to write, those refused as (event, reason, detail), and the number stored already."""
    if not events:
        return [], [], 0
    known = _known_items(lake, {event["item_id"] for event in events})
    stored = _stored_events(lake, events)
    kept: dict[str, dict[str, Any]] = {}
    refused, unchanged = [], 0
    for event in events:
        before = stored.get(event["event_id"])
        if before is not None and any(before[name] != event[name] for name in _SAME):
            refused.append((event, "conflicting_event", f"event {event['event_id']} is stored with other content"))
        elif before is not None and (
            before["source"] != event["source"] or before["source_offset"] == event["source_offset"]
        ):
            unchanged += 1
        elif before is not None or event["event_id"] in kept:
            refused.append((event, "duplicate_event", f"event {event['event_id']} is in this source already"))
        elif event["item_id"] not in known:
            refused.append((event, UNKNOWN_ITEM, f"item {event['item_id']!r} is not in the catalogue yet"))
        else:
            kept[event["event_id"]] = event
    return list(kept.values()), refused, unchanged


def _known_items(lake: Lake, items: set[str]) -> set[str]:
    rows = lake.read("items", columns=["item_id"], where=one_of("item_id", sorted(items)))
    return set(rows.column("item_id").to_pylist())


def _stored_events(lake: Lake, events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """These events as the lake has them; reads only what is no more than SAME_ID_WITHIN from their event times."""
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
    """A quarantined event as a row again; it arrives when it is let in, so that no older release sees it."""
    return {
        **event,
        "event_time": datetime.fromisoformat(event["event_time"]),
        "arrival_time": arrived_at,
        "arrival_date": arrived_at.date(),
    }


def _dump(values: dict[str, Any]) -> str:
    return json.dumps(values, default=lambda value: value.isoformat() if hasattr(value, "isoformat") else repr(value))
