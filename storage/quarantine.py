"""Quarantine: rows that a stage refused, with the reason. No row is dropped; one that gets through is resolved."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa

from infra.addresses import without_secrets
from storage.commit import Commit, Provenance, append
from storage.lake import Lake
from storage.schemas import QUARANTINE

PAYLOAD_LIMIT = 1 << 20  # characters kept of a refused row; its source and row number are always kept


@dataclass(frozen=True)
class Reject:
    """One refused row. `subject` is the item or event id if known; `source_row` counts from 0."""

    stage: str
    reason: str
    detail: str
    source: str
    source_row: int
    subject: str | None = None
    payload: str | None = None

    @property
    def id(self) -> str:
        name = f"{self.stage}\0{self.reason}\0{self.source}\0{self.source_row}\0{self.subject}"
        return hashlib.blake2b(name.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


def quarantine(lake: Lake, rejects: Iterable[Reject], provenance: Provenance) -> Commit | None:
    """Append open rows for `rejects`, except those open with the same content. Return None if there is nothing new."""
    rows = {reject.id: _row(reject, "open", provenance.run) for reject in rejects}
    if not rows:
        return None
    known = {row[0]: row[1:] for row in open_rows(lake).select("quarantine_id", "detail", "payload").iter_rows()}
    fresh = [row for name, row in rows.items() if known.get(name) != (row["detail"], row["payload"])]
    return _append(lake, fresh, provenance)


def resolve(lake: Lake, rows: pl.DataFrame, detail: str, provenance: Provenance) -> Commit | None:
    """Mark open rows as resolved: their content has gone through."""
    now = datetime.now(UTC)
    resolved = [
        {**row, "status": "resolved", "detail": detail, "payload": None, "at": now, "run": provenance.run}
        for row in rows.to_dicts()
    ]
    return _append(lake, resolved, provenance)


def _row(reject: Reject, status: str, run: str) -> dict[str, object]:
    return {
        "quarantine_id": reject.id,
        "status": status,
        "stage": reject.stage,
        "subject": _clean(reject.subject),
        "reason": reject.reason,
        "detail": _clean(without_secrets(reject.detail)) or "",
        "payload": _clean(reject.payload),
        "source": _clean(reject.source) or "",
        "source_row": reject.source_row,
        "at": datetime.now(UTC),
        "run": run,
    }


def _clean(text: str | None) -> str | None:
    """Escape what UTF-8 cannot hold, and truncate to PAYLOAD_LIMIT."""
    if text is None:
        return None
    return text[:PAYLOAD_LIMIT].encode("utf-8", "backslashreplace").decode()


def _append(lake: Lake, rows: list[dict[str, object]], provenance: Provenance) -> Commit | None:
    if not rows:
        return None
    table = pa.Table.from_pylist(rows, schema=QUARANTINE.schema)
    name = "\0".join(sorted(f"{row['quarantine_id']}{row['status']}" for row in rows)) + str(lake.version("quarantine"))
    key = "quarantine:" + hashlib.sha256(name.encode()).hexdigest()[:24]
    return append(lake, "quarantine", table, key, provenance)


def open_rows(lake: Lake, version: int | None = None, reason: str | None = None) -> pl.DataFrame:
    """Return the rows that are still refused: their last status is open."""
    frame = lake.frame("quarantine", version)
    last = frame.sort("at").unique("quarantine_id", keep="last", maintain_order=True).filter(pl.col("status") == "open")
    return last if reason is None else last.filter(pl.col("reason") == reason)


def by_reason(lake: Lake, version: int | None = None) -> dict[str, int]:
    """Return the number of open rows per reason, sorted by reason."""
    counts = open_rows(lake, version).group_by("reason").len().sort("reason")
    return {row["reason"]: row["len"] for row in counts.to_dicts()}
