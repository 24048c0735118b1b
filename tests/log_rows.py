"""Rows of the log, one field at a time where it matters, and their delivery to a lake."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from storage.commit import Provenance, append
from storage.lake import Lake
from storage.schemas import INTERACTIONS

START = datetime(2026, 1, 1, tzinfo=UTC)
WHO = Provenance("test", "")
Row = dict[str, Any]


def event(user: int, item: int, minute: int, day: int, name: int) -> Row:
    arrival = START + timedelta(days=day)
    return {
        "event_id": f"e{name}",
        "user_id": f"u{user}",
        "item_id": f"i{item}",
        "event_type": "click",
        "event_time": START + timedelta(minutes=minute),
        "arrival_time": arrival,
        "arrival_date": arrival.date(),
        "source": "s",
        "source_offset": name,
    }


def order(row: Row) -> tuple[Any, ...]:
    """Sort key of an event among those of all users: the oracle of pipelines.event_log.event_order."""
    return (row["user_id"], row["event_time"], row["arrival_time"], row["source"], row["source_offset"])


def deliver(lake: Lake, rows: list[Row], key: str) -> None:
    if rows:
        table = {name: [row.get(name) for row in rows] for name in INTERACTIONS.schema.names}
        append(lake, "interactions", pa.table(table, schema=INTERACTIONS.schema), key, WHO)
