"""Data visible to a run: pinned table versions, an arrival bound, and the event-time cutoff."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow.dataset as ds

from flows.runtime.run import Run
from pipelines.event_log.event_times import EventTimes
from pipelines.event_log.visible_log import LogSlice
from pipelines.vector_store import FEW
from storage.json_hash import json_hash
from storage.lake import Lake, TableRef
from storage.releases.catalogue import catalogue
from storage.releases.manifest import Manifest


@dataclass(frozen=True)
class Snapshot:
    """Data visible to a run. `as_of` bounds arrivals (inclusive), `cutoff` bounds event times (exclusive).

    `cutoff_date` is an explicitly requested cutoff, of this run or of the release that it extends; None if a share of
    the events decided.
    """

    items: TableRef
    interactions: TableRef
    as_of: datetime
    cutoff: datetime
    cutoff_date: datetime | None = None

    @property
    def log(self) -> LogSlice:
        return LogSlice(self.interactions.version, self.as_of, self.cutoff)

    @property
    def versions(self) -> dict[str, int]:
        return {"items": self.items.version, "interactions": self.interactions.version}

    def catalogue(
        self, lake: Lake, columns: list[str] | None = None, among: Iterable[str] | None = None
    ) -> pl.DataFrame:
        """Return the newest visible revision of every item, including deleted items."""
        return catalogue(lake, self.items.version, self.as_of, columns, among)

    def alive(self, lake: Lake, among: pl.Series | None = None) -> pl.DataFrame:
        """Return (item_id) of the items that are visible and not deleted, of all or of some."""
        few = among if among is None or len(among) <= FEW else None
        found = self.catalogue(lake, ["deleted"], few)
        found = (found.filter(~pl.col("deleted")) if found["deleted"].any() else found).select("item_id")
        return found if among is None else found.filter(pl.col("item_id").is_in(among.implode()))

    def content(self, lake: Lake) -> dict[str, Any]:
        """Return the identity of the visible data, independent of the time at which the snapshot was taken.

        A later `as_of` only adds rows, and a later cutoff only adds events before it. So table versions and row counts
        identify the visible rows. Versions that only joined files have the rows of those before.
        """
        arrived = ds.field("arrived_at") <= self.as_of
        events = ds.field("arrival_time") <= self.as_of
        return {
            "versions": {name: lake.version_of_rows(name, version) for name, version in self.versions.items()},
            "items": lake.count("items", self.items.version, arrived),
            "events": lake.count("interactions", self.interactions.version, events),
            "events_before_cutoff": lake.count("interactions", self.interactions.version, self.log.visible),
            "cutoff_date": self.cutoff_date.isoformat() if self.cutoff_date else None,
        }


def check_as_of(as_of: datetime | None, parent: Manifest) -> None:
    """Raise ValueError if a run is given an earlier as-of time than that of the release it extends."""
    if as_of is not None and as_of < parent.as_of:
        raise ValueError(
            f"--as-of {as_of.isoformat()} is earlier than the as-of time of {parent.id}, {parent.as_of.isoformat()}: "
            "rows that arrived between them would drop out of the release. Give a later time, or leave --as-of out."
        )


def take_snapshot(
    run: Run, as_of: datetime | None, cutoff: datetime | None, *earlier: Manifest, date: datetime | None = None
) -> Snapshot:
    """Pin the newest versions, with an as-of time not before those of the `earlier` releases.

    Without `as_of`, all ingested items are visible, also those stamped by a run whose clock was ahead of ours. Without
    `cutoff`, the cutoff is `date`, one that was requested earlier; without either, the newest share of the visible
    events is held out.
    """
    items, interactions = run.lake.ref("items"), run.lake.ref("interactions")
    bound = as_of or run.clock
    if as_of is None:
        bound = _newest_arrival(run, items, bound)
    latest = max(earlier, key=lambda each: each.as_of, default=None)
    if latest is not None and bound < latest.as_of:
        run.say(
            f"  warning: the clock says {bound:%Y-%m-%d %H:%M:%S} UTC, earlier than the as-of time of {latest.id}, "
            f"{latest.as_of:%Y-%m-%d %H:%M:%S} UTC: the as-of time stays, so that no row drops out of the release"
        )
        bound = latest.as_of
    date = cutoff or date
    return Snapshot(items, interactions, bound, date or _holdout_cutoff(run, interactions, bound), date)


def _newest_arrival(run: Run, items: TableRef, clock: datetime) -> datetime:
    """Return the clock, or the newest arrival time of an item if that is later."""
    ahead = run.lake.frame("items", items.version, ["arrived_at"], ds.field("arrived_at") > clock)["arrived_at"]
    newest = ahead.max()
    if newest is None:
        return clock
    assert isinstance(newest, datetime)
    run.say(
        f"  warning: the clock says {clock:%Y-%m-%d %H:%M:%S} UTC, but {ahead.len():,} rows of the catalogue were read "
        f"by a run whose clock was ahead, up to {newest:%Y-%m-%d %H:%M:%S} UTC: that is the as-of time of this run, so "
        "that it sees these rows"
    )
    return newest


def say_cutoff(run: Run, snapshot: Snapshot) -> None:
    """Show the time from which events are held out, and the rule for it."""
    share = run.recipe.split.holdout
    rule = (
        f"the newest {share:.0%} of them, by split.holdout" if share else "the as-of time, because split.holdout is 0"
    )
    source = (
        "the date given with --cutoff, which nightly runs keep" if snapshot.cutoff_date == snapshot.cutoff else rule
    )
    run.say(f"  events from {snapshot.cutoff:%Y-%m-%d %H:%M:%S} UTC on are held out ({source})")


def _holdout_cutoff(run: Run, interactions: TableRef, as_of: datetime) -> datetime:
    """Return the time from which the newest share of the events is held out; equal times are not split."""
    share = run.recipe.split.holdout
    times = EventTimes(run.lake, interactions.version, as_of)
    if share == 0 or not (count := len(times)):
        return as_of
    return times[math.ceil((count - 1) * (1 - share))]


def arrived_since(lake: Lake, parent: Manifest, snapshot: Snapshot) -> pl.DataFrame:
    """Return (item_id, revision, deleted) of items changed since `parent`, by their newest visible revision.

    The cost grows with the change; with none, the whole catalogue is read.
    """
    columns = ["item_id", "arrived_at"]
    new_files = pl.DataFrame(
        lake.read_added("items", parent.versions["items"], snapshot.items.version, columns)
    ).filter(pl.col("arrived_at") <= snapshot.as_of)
    late = (ds.field("arrived_at") > parent.as_of) & (ds.field("arrived_at") <= snapshot.as_of)
    old_files = lake.frame("items", snapshot.items.version, columns, late)
    ids = pl.concat([new_files, old_files])["item_id"].unique().sort().to_list()
    return snapshot.catalogue(lake, ["deleted"], ids)


def added_events(lake: Lake, parent: Manifest, snapshot: Snapshot, columns: list[str]) -> pl.DataFrame:
    """Return events that became visible since `parent`, on both sides of the cutoff; cost grows with the change."""
    wanted = list(dict.fromkeys([*columns, "event_id", "arrival_time"]))
    new_files = pl.DataFrame(
        lake.read_added("interactions", parent.versions["interactions"], snapshot.interactions.version, wanted)
    ).filter(pl.col("arrival_time") <= snapshot.as_of)
    late = (ds.field("arrival_time") > parent.as_of) & (ds.field("arrival_time") <= snapshot.as_of)
    seen_since = lake.frame("interactions", snapshot.interactions.version, wanted, late)
    return pl.concat([new_files, seen_since]).unique("event_id", keep="first", maintain_order=True).select(columns)


def release_key(
    kind: str, parent: str | None, content: dict[str, Any], recipe_hash: str, extra_key_fields: dict[str, Any]
) -> str:
    """Return the idempotency key of a release: a hash of all that determines its content.

    That is its kind, parent, visible data (`Snapshot.content`), recipe, and, in `extra_key_fields`, what else was
    requested.
    """
    name = {"kind": kind, "parent": parent, "content": content, "recipe": recipe_hash, "asked": extra_key_fields}
    return f"{kind}:{json_hash(name)}"
