"""Events that go into the table `interactions`: those of known items, each once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from pipelines.ingest.accounting import content_key
from pipelines.ingest.events.ids import content_ids
from pipelines.ingest.events.known_items import Has, KnownItems, known_items
from pipelines.ingest.events.near_ids import near_ids
from pipelines.ingest.events.seen_events import SeenEvents
from pipelines.ingest.hash_set import Hashes, id_hashes
from storage.commit import Commit
from storage.files.among import Among
from storage.files.data_files import DataFile
from storage.lake import Lake
from storage.reasons import Reason
from storage.schemas import INTERACTIONS

SAME = ("user_id", "item_id", "event_type", "event_time")
"""Fields in which an event that is delivered again must agree."""
EARLIEST, LATEST = (time.replace(tzinfo=UTC) for time in (datetime.min, datetime.max))
SAME_ID_WITHIN = timedelta(days=2)
"""Largest difference in event time at which an id of another source counts as repeated: above any time zone error, yet
few files are read. An id that is a hash of the content, with the time in it, comes back with the same time.
"""
_STORED = ["event_id", "source", "source_offset", *SAME]
Refusal = tuple[dict[str, Any], str, str]
"""An event, the reason, and the detail."""
TimeSpan = tuple[datetime, datetime]
"""First and last event time."""


@dataclass(frozen=True)
class Admitted:
    """Events to write, those refused, and the number that the lake has already."""

    events: pl.DataFrame
    refused: list[Refusal]
    unchanged: int


class Admission:
    """Admission of the events of one source, chunk by chunk in their order.

    An id counts as repeated wherever it stands in the source, so the outcome does not depend on the size of chunks.
    """

    def __init__(self, lake: Lake, has: Has | None = None) -> None:
        """Set up for one source. `has` returns for some ids whether they are certainly those of items."""
        self._lake = lake
        self._items = KnownItems(lake, has)
        self._seen = SeenEvents(self._written_ids)
        self._own_files: dict[str, TimeSpan] = {}
        self._version: int | None = None

    def recognised(self, events: pl.DataFrame) -> pl.DataFrame:
        """Add a column `known`: whether the catalogue has the event's item."""
        return events.with_columns(self._items.known(events["item_id"]).alias("known"))

    def admit(
        self, events: pl.DataFrame, own_ids: bool = True, version: int | None = None, times: TimeSpan | None = None
    ) -> Admitted:
        """Split recognised events with a `source`, beside those stored at `version` of the table (newest by default).

        Without `own_ids`, all ids are hashes of the content. `times` are the first and the last of the part that these
        events are of, if they are not all of it.
        """
        if events.is_empty():
            return Admitted(events, [], 0)
        within = SAME_ID_WITHIN if own_ids else timedelta(0)
        repeated, stored = self._repeated(events, own_ids), self._stored(events, times, within, version)
        if stored.is_empty() and events["known"].all() and not repeated.any():
            return Admitted(events, [], 0)
        found = _judged(events, repeated, stored)
        kept = events.filter(found["outcome"] == "")
        refused = []
        for reason in (Reason.CONFLICTING_EVENT, Reason.DUPLICATE_EVENT, Reason.UNKNOWN_ITEM):
            rows = events.filter(found["outcome"] == str(reason))
            refused += [
                (row, str(reason), detail) for row, detail in zip(rows.to_dicts(), _why(reason, rows), strict=True)
            ]
        refused.sort(key=lambda each: each[0]["source_offset"])
        return Admitted(kept, _with_near_ids(self._lake, refused), int((found["outcome"] == "unchanged").sum()))

    def begin(self, version: int) -> None:
        """Take note of the version beside which workers judge."""
        self._version = version

    def confirms(self, keys: Iterable[Hashes], own_ids: bool, version: int) -> bool:
        """Return whether a worker's judgement of events with these keys stands at a version of the table.

        It does if this source alone was written since, and no such event was.
        """
        return version == self._version and not any(self._seen.may_have(some, own_ids) for some in keys)

    def written(self, events: pl.DataFrame, own_ids: bool, commit: Commit | None) -> None:
        """Take note of admitted events that were written, and of their commit."""
        if len(events):
            self._seen.add(events, own_ids)
            self._committed(times_of(events), commit)

    def confirmed(self, keys: Hashes, times: TimeSpan | None, commit: Commit | None) -> None:
        """Take note of events of a confirmed judgement that were written, by their keys, first and last time."""
        self._seen.add_keys(keys)
        self._committed(times, commit)

    def _committed(self, times: TimeSpan | None, commit: Commit | None) -> None:
        if commit is not None and commit.files and times is not None:
            self._own_files |= dict.fromkeys(commit.files, times)
            if self._version is not None and commit.ref.version == self._version + 1:
                self._version = commit.ref.version

    def _repeated(self, events: pl.DataFrame, own_ids: bool) -> pl.Series:
        """Return for each event whether an earlier one of this source with its id is kept."""
        before = self._seen.has(events, own_ids)
        if before.any():
            own = self._own_ids(events.filter(pl.Series(before)), whenever=own_ids)
            before &= events["event_id"].is_in(own.implode()).to_numpy()
        ordered = np.sort(id_hashes(events["event_id"]))
        if not (ordered[1:] == ordered[:-1]).any():
            return pl.Series(before)
        place = pl.int_range(len(events), eager=True)
        first = events.select("event_id", place=place).filter(events["known"] & ~pl.Series(before))
        first = first.group_by("event_id").agg(pl.col("place").min().alias("first"))
        asked = events.select("event_id").join(first, on="event_id", how="left", maintain_order="left")
        return (asked["first"] < place).fill_null(False) | pl.Series(before)

    def _own_ids(self, events: pl.DataFrame, whenever: bool) -> pl.Series:
        """Return the ids of some events that this source has written before: at the same times, or `whenever`."""
        first, last = times_of(events)
        found = [pl.Series([], dtype=pl.String)]
        for path, (low, high) in sorted(self._own_files.items()):
            if whenever or (low <= last and first <= high):
                written = self._ids_of(path)
                found.append(written.filter(written.is_in(events["event_id"].implode())))
        return pl.concat(found)

    def _written_ids(self) -> Iterator[pl.Series]:
        """Yield the ids of all events that this source has written, file by file."""
        yield from map(self._ids_of, sorted(self._own_files))

    def _ids_of(self, path: str) -> pl.Series:
        rows = self._lake.read_files("interactions", [DataFile.at(path)], ["event_id"])
        return pl.Series(rows.column("event_id"), dtype=pl.String)

    def _stored(
        self, events: pl.DataFrame, times: TimeSpan | None, within: timedelta, version: int | None
    ) -> pl.DataFrame:
        """Return the stored events with these ids, except those of this source that `written` knows of.

        Only events `within` a difference of their event times are read.
        """
        low, high = times or times_of(events)
        first = max(low, EARLIEST + within) - within
        last = min(high, LATEST - within) + within
        where = (ds.field("event_time") >= first) & (ds.field("event_time") <= last)
        ids = Among("event_id", events["event_id"])
        rows = self._lake.read("interactions", version, _STORED, where, ids, without=self._own_files)
        return pl.DataFrame(rows).unique("event_id", keep="last")


def times_of(events: pl.DataFrame) -> TimeSpan:
    """Return the first and the last time of some events."""
    low, high = events["event_time"].min(), events["event_time"].max()
    assert isinstance(low, datetime)
    assert isinstance(high, datetime)
    return low, high


def event_rows(events: pl.DataFrame) -> tuple[pa.Table, str]:
    """Return events as rows of the table, and the key of their commit."""
    dated = events.with_columns(arrival_date=pl.col("arrival_time").dt.date())
    rows = dated.select(INTERACTIONS.schema.names).to_arrow()
    return rows, content_key("interactions", rows.select(["event_id", *SAME]))


def _judged(events: pl.DataFrame, repeated: pl.Series, stored: pl.DataFrame) -> pl.DataFrame:
    """Return `outcome` for each event: "" to be kept, "unchanged", or the reason to refuse it."""
    found = events.select(*_STORED, "known").with_columns(repeated=repeated).with_columns(outcome=_unlike_stored())
    if not stored.is_empty():
        found = found.join(stored, on="event_id", how="left", suffix="_stored", maintain_order="left")
        found = found.with_columns(outcome=_beside_stored(pl.col("outcome")))
    return found


def _unlike_stored() -> pl.Expr:
    """Return the outcome of an event that is not stored yet."""
    return (
        pl.when(pl.col("repeated"))
        .then(pl.lit(str(Reason.DUPLICATE_EVENT)))
        .when(~pl.col("known"))
        .then(pl.lit(str(Reason.UNKNOWN_ITEM)))
        .otherwise(pl.lit(""))
    )


def _beside_stored(otherwise: pl.Expr) -> pl.Expr:
    """Return the outcome of an event whose id is stored in columns with the suffix `_stored`."""
    differs = pl.any_horizontal(pl.col(name) != pl.col(f"{name}_stored") for name in SAME)
    elsewhere = pl.col("source") != pl.col("source_stored")
    itself = pl.col("source_offset") == pl.col("source_offset_stored")
    return (
        pl.when(pl.col("source_stored").is_null())
        .then(otherwise)
        .when(differs)
        .then(pl.lit(str(Reason.CONFLICTING_EVENT)))
        .when(elsewhere | itself)
        .then(pl.lit("unchanged"))
        .otherwise(pl.lit(str(Reason.DUPLICATE_EVENT)))
    )


def _why(reason: Reason, events: pl.DataFrame) -> list[str]:
    """Return the details of events refused for `reason`."""
    if reason == Reason.CONFLICTING_EVENT:
        return [f"event {name!r} is stored with another user, item, type or time" for name in events["event_id"]]
    if reason == Reason.UNKNOWN_ITEM:
        return [f"item {name!r} is not in the catalogue yet" for name in events["item_id"]]
    rows = zip(events.to_dicts(), content_ids(events), strict=True)
    return [_again(event, content) for event, content in rows]


def _again(event: dict[str, Any], content: str) -> str:
    """Explain why an event repeats an earlier row: the same given id, or the same content."""
    if event["event_id"] != content:
        return f"event {event['event_id']!r} is in this source already"
    what = f"user {event['user_id']!r}, item {event['item_id']!r} at {event['event_time']}"
    return f"{what} is in this source already, the same in all that is kept of a row"


def _with_near_ids(lake: Lake, refused: list[Refusal]) -> list[Refusal]:
    """Return the refused events; those whose item has another spelling in the catalogue say so and come first."""
    unknown = [event["item_id"] for event, reason, _ in refused if reason == Reason.UNKNOWN_ITEM]
    near = near_ids(unknown, partial(known_items, lake)) if unknown else {}
    if not near:
        return refused

    def with_hint(event: dict[str, Any], reason: str, detail: str) -> Refusal:
        hint = near.get(event["item_id"]) if reason == Reason.UNKNOWN_ITEM else None
        return event, reason, f"{detail}; {hint}" if hint else detail

    return sorted((with_hint(*each) for each in refused), key=lambda each: each[0]["item_id"] not in near)
