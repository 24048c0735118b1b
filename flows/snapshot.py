"""What a run may see: pinned table versions, an arrival bound, and the event-time cutoff."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

import polars as pl
import pyarrow.dataset as ds

from flows.run import Run
from pipelines.behaviour import LogSlice
from storage.catalogue import catalogue
from storage.lake import Lake, TableRef
from storage.manifest import Manifest


@dataclass(frozen=True)
class Snapshot:
    """`as_of` bounds arrivals (inclusive), `cutoff` bounds event times (exclusive)."""

    items: TableRef
    interactions: TableRef
    as_of: datetime
    cutoff: datetime

    @property
    def log(self) -> LogSlice:
        return LogSlice(self.interactions.version, self.as_of, self.cutoff)

    @property
    def versions(self) -> dict[str, int]:
        return {"items": self.items.version, "interactions": self.interactions.version}

    def catalogue(self, lake: Lake, columns: list[str] | None = None, among: list[str] | None = None) -> pl.DataFrame:
        """Newest visible revision of every item, deleted ones included."""
        return catalogue(lake, self.items.version, self.as_of, columns, among)


def take_snapshot(run: Run, as_of: datetime | None, cutoff: datetime | None) -> Snapshot:
    """Pin the newest versions; without a cutoff of its own a run holds out the newest share of the visible events."""
    items, interactions = run.lake.ref("items"), run.lake.ref("interactions")
    bound = as_of or run.clock
    return Snapshot(items, interactions, bound, cutoff or _holdout_cutoff(run, interactions, bound))


def _holdout_cutoff(run: Run, interactions: TableRef, as_of: datetime) -> datetime:
    share = run.recipe.split.holdout
    if share == 0:
        return as_of
    where = ds.field("arrival_time") <= as_of
    times = run.lake.frame("interactions", interactions.version, ["event_time"], where)["event_time"]
    if times.is_empty():
        return as_of
    quantile = times.quantile(1 - share, interpolation="higher")
    assert isinstance(quantile, datetime)
    return quantile


def arrived_since(lake: Lake, parent: Manifest, snapshot: Snapshot) -> pl.DataFrame:
    """Items (newest visible revision) of which a revision became visible since `parent`; cost follows the change."""
    columns = ["item_id", "arrived_at"]
    new_files = pl.DataFrame(
        lake.read_added("items", parent.versions["items"], snapshot.items.version, columns)
    ).filter(pl.col("arrived_at") <= snapshot.as_of)
    late = (ds.field("arrived_at") > parent.as_of) & (ds.field("arrived_at") <= snapshot.as_of)
    old_files = lake.frame("items", snapshot.items.version, columns, late)
    ids = pl.concat([new_files, old_files])["item_id"].unique().sort().to_list()
    return snapshot.catalogue(lake, among=ids) if ids else snapshot.catalogue(lake).clear()


def added_events(lake: Lake, parent: Manifest, snapshot: Snapshot, columns: list[str]) -> pl.DataFrame:
    """The events that became visible since `parent`, before the cutoff or not; cost follows the change."""
    wanted = list(dict.fromkeys([*columns, "event_id", "arrival_time"]))
    new_files = pl.DataFrame(
        lake.read_added("interactions", parent.versions["interactions"], snapshot.interactions.version, wanted)
    ).filter(pl.col("arrival_time") <= snapshot.as_of)
    late = (ds.field("arrival_time") > parent.as_of) & (ds.field("arrival_time") <= snapshot.as_of)
    seen_since = lake.frame("interactions", snapshot.interactions.version, wanted, late)
    return pl.concat([new_files, seen_since]).unique("event_id", keep="first", maintain_order=True).select(columns)


def release_key(
    kind: str, parent: str | None, snapshot: Snapshot, recipe_hash: str, asked: dict[str, str | None]
) -> str:
    """What makes two runs the same: kind, parent, input versions, recipe, and the bounds that were asked for."""
    name = {"kind": kind, "parent": parent, "versions": snapshot.versions, "recipe": recipe_hash, "asked": asked}
    digest = hashlib.blake2b(json.dumps(name, sort_keys=True).encode(), digest_size=8).hexdigest()
    return f"{kind}:{digest}"
