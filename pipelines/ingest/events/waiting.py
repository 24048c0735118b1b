"""Events in quarantine that wait for their item: they are written when it arrives."""

import json
from datetime import datetime
from typing import Any

import polars as pl

from pipelines.ingest.events.admission import Admission
from pipelines.ingest.events.columns import EVENTS
from pipelines.ingest.events.ingest import reject_event, write_admitted
from pipelines.ingest.events.known_items import known_items
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import PAYLOAD_LIMIT, open_rows, quarantine, resolve
from storage.reasons import Reason


def waiting_for_known_items(lake: Lake) -> int:
    """Return the number of quarantined events whose item is known now."""
    wanted = [json.loads(payload)["item_id"] for payload in _waiting(lake)["payload"]]
    known = known_items(lake, set(wanted))
    return sum(item in known for item in wanted)


def admit_waiting(lake: Lake, arrived_at: datetime, provenance: Provenance) -> int:
    """Write the quarantined events whose item has arrived since; return their number."""
    waiting = _waiting(lake)
    if waiting.is_empty():
        return 0
    events = [json.loads(payload) for payload in waiting["payload"]]
    known = known_items(lake, {event["item_id"] for event in events})
    ready = waiting.filter(pl.Series([event["item_id"] in known for event in events], dtype=pl.Boolean))
    if ready.is_empty():
        return 0
    rows = [_revive(json.loads(payload), arrived_at) for payload in ready["payload"]]
    events_again = pl.DataFrame(rows, schema={**EVENTS, "source": pl.String}, orient="row")
    admission = Admission(lake)
    admitted = write_admitted(lake, admission, admission.recognised(events_again), provenance)
    quarantine(lake, [reject_event(*each) for each in admitted.refused], provenance)
    resolve(lake, ready, "its item arrived", provenance)
    return len(admitted.events)


def _waiting(lake: Lake) -> pl.DataFrame:
    """Return the events that wait for their item, except those too long to be kept whole in quarantine."""
    return open_rows(lake, reason=Reason.UNKNOWN_ITEM).filter(pl.col("payload").str.len_chars() < PAYLOAD_LIMIT)


def _revive(event: dict[str, Any], arrived_at: datetime) -> dict[str, Any]:
    """Convert a quarantined event to a row again. It arrives when it is admitted, so no older release sees it."""
    return {**event, "event_time": datetime.fromisoformat(event["event_time"]), "arrival_time": arrived_at}
