"""The behaviour in a log of any size: items as rows of sorted ids, events user by user in scratch files.

Memory holds some bytes an item, one batch of the log and one part of the events. The parts depend on the log alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from infra.scratch import ScratchFolder
from pipelines.event_log.event_order import ORDER, in_order
from pipelines.event_log.user_buckets import BATCH_ROWS, BUCKET_EVENTS, MAX_BUCKETS, read_once, spread
from pipelines.event_log.visible_log import COLUMNS, EventArrays, LogSlice, aged, counted, type_weight
from pipelines.spec import CollaborativeSection, CollaborativeSpec
from storage.lake import Lake
from tokenizer.arrays.id_rows import IdRows
from tokenizer.arrays.types import Ints

MERGED = 1 << 21
"""Least rows of counts that are merged with those held: half as many as are held, so that all merges cost a few times
the log, whatever its items.
"""
SHARES = 16
"""Parts, by hash of the id, in which counts are merged, and ranges of ids in which they are sorted.

Both take several times the memory of their input.
"""
EDGES_FROM = 1 << 12
"""Ids of each part from which the ends of the ranges are taken."""
BINS = 1 << 16
"""Bins of a histogram of times. A pass over the log narrows a time down by this factor, for 0.5 MB of counts."""


@dataclass(frozen=True)
class LogItems:
    """Items of the visible events: sorted `ids`, how many of each are `behaviour`, and all `events`."""

    ids: pl.Series
    behaviour: Ints
    events: int

    @classmethod
    def of(cls, lake: Lake, log: LogSlice, section: CollaborativeSection) -> "LogItems":
        """Count the behaviour of each item, batch by batch."""
        merged = _sorted(_counted(lake, log, {"behaviour": counted(section).sum()}, COUNTED))
        events = lake.count("interactions", log.version, log.visible)
        return cls(merged["item_id"], merged["behaviour"].to_numpy(), events)


COUNTED = ["item_id", "event_type", "impression"]


def item_counts(lake: Lake, log: LogSlice, counts: dict[str, pl.Expr], columns: list[str]) -> pl.DataFrame:
    """Return (item_id, counts) of the visible events, counted batch by batch."""
    return pl.concat(_counted(lake, log, counts, columns))


def _counted(lake: Lake, log: LogSlice, counts: dict[str, pl.Expr], columns: list[str]) -> list[pl.DataFrame]:
    """Return (item_id, counts) in SHARES parts."""
    none = pl.DataFrame(schema={"item_id": pl.String, **dict.fromkeys(counts, pl.Int64)})
    held, fresh = [none] * SHARES, [none]
    for batch in lake.batches("interactions", columns, log.visible, BATCH_ROWS, log.version):
        made = pl.DataFrame(pa.table(batch)).group_by("item_id").agg(**counts)
        fresh.append(made.cast(dict.fromkeys(counts, pl.Int64)))
        if sum(part.height for part in fresh) > max(MERGED, sum(part.height for part in held) // 2):
            _merge(held, fresh)
            fresh = [none]
    _merge(held, fresh)
    return held


def _merge(held: list[pl.DataFrame], fresh: list[pl.DataFrame]) -> None:
    """Add counts to those held, part by part."""
    rows = pl.concat(fresh)
    share = rows["item_id"].hash() % SHARES
    for number, old in enumerate(held):
        both = pl.concat([old, rows.filter(share == number)])
        held[number] = both.group_by("item_id").agg(pl.col(pl.Int64).sum())


def _sorted(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """Return the rows of some parts in order of item_id, sorted range by range. The parts are sorted in place."""
    for number, part in enumerate(parts):
        parts[number] = part.sort("item_id")
    ids = pl.concat([part["item_id"].gather_every(max(1, part.height // EDGES_FROM)) for part in parts]).sort()
    edges = ids[[ids.len() * number // SHARES for number in range(1, SHARES)]] if ids.len() else ids
    ends = [[0, *part["item_id"].search_sorted(edges, side="left").to_list(), part.height] for part in parts]
    ranges = (
        pl.concat([part.slice(end[at], end[at + 1] - end[at]) for part, end in zip(parts, ends, strict=True)])
        for at in range(edges.len() + 1)
    )
    return pl.concat([rows.sort("item_id") for rows in ranges])


@dataclass(frozen=True)
class BehaviourLog:
    """Behaviour as `histories` keeps it: `items` sorted, the events of each (`seen`), and the parts of the log."""

    items: pa.Array
    seen: Ints
    folder: Path
    parts_count: int
    newest: int
    half_life_days: float | None
    row: NDArray[np.int32]

    def parts(self) -> Iterator[EventArrays]:
        """Yield the events part by part; a user is in one part."""
        for part in range(self.parts_count):
            kept = pl.read_ipc(self.folder / f"{part}.arrow")
            time = kept["time"].to_numpy()
            weight = aged(kept["weight"].to_numpy(), time, self.newest, self.half_life_days)
            yield EventArrays(kept["user"].to_numpy(), self.row[kept["item"].to_numpy()].astype(np.int64), time, weight)

    def newest_since(self, share: float) -> int:
        """Return the time at or after which about that share of the events lies; equal times are not split."""
        size = int(self.seen.sum())
        return self._time_at(min(int(np.ceil(size * (1 - share))), size - 1)) if size else 0

    def _time_at(self, place: int) -> int:
        """Return the time of the event at a place in order of time, by histograms of ever narrower spans."""
        low, high = np.iinfo(np.int64).max, self.newest
        for part in self.parts():
            low = min(low, int(part.time.min(initial=low)))
        while low < high:
            width = -(-(high - low + 1) // BINS)
            counts = np.zeros(BINS, np.int64)
            for part in self.parts():
                inside = part.time[(part.time >= low) & (part.time <= high)]
                counts += np.bincount((inside - low) // width, minlength=BINS)
            ends = np.cumsum(counts)
            chosen = int(np.searchsorted(ends, place, side="right"))
            place -= int(ends[chosen] - counts[chosen])
            low, high = low + chosen * width, min(high, low + (chosen + 1) * width - 1)
        return low


@contextmanager
def behaviour_log(
    lake: Lake, log: LogSlice, items: LogItems, spec: CollaborativeSpec, part_events: int = BUCKET_EVENTS
) -> Iterator[BehaviourLog]:
    """Yield the behaviour in the visible events; its scratch files go when the context ends.

    The `items` are not needed, nor held, once it is there.
    """
    often = pl.Series(items.behaviour >= spec.min_events)
    ids = items.ids.filter(often).to_arrow().cast(pa.large_string())
    parts = max(1, min(MAX_BUCKETS, -(-items.events // part_events)))
    del items, often
    with ScratchFolder("behaviour") as scratch:
        folder = Path(scratch)
        spread(_behaviour(lake, log, IdRows(ids), spec), parts, folder / "unordered")
        seen, newest = np.zeros(len(ids), np.int64), list[int]()
        for part in range(parts):
            kept = _ordered(folder / "unordered" / str(part), spec.user_cap)
            kept.write_ipc(folder / f"{part}.arrow", compression="uncompressed")
            np.add.at(seen, kept["item"].to_numpy(), 1)
            newest += kept["time"].sort().tail(1).to_list()
        has_events = seen > 0
        row = np.where(has_events, np.cumsum(has_events) - 1, -1).astype(np.int32)
        names = ids if has_events.all() else ids.filter(pa.array(has_events))
        made = BehaviourLog(names, seen[has_events], folder, parts, max(newest, default=0), spec.half_life_days, row)
        del ids, names, seen, has_events, row, kept
        yield made


def _behaviour(lake: Lake, log: LogSlice, ids: IdRows, spec: CollaborativeSpec) -> Iterator[pa.RecordBatch]:
    """Yield the behaviour with `item`, a row of `ids`, and `weight`, unordered."""
    for batch in lake.batches("interactions", COLUMNS, log.visible, BATCH_ROWS, log.version):
        events = pl.DataFrame(pa.table(batch)).filter(counted(spec))
        item = pl.Series("item", ids.find(events["item_id"].to_arrow().cast(pa.large_string())), pl.Int32)
        known = events.select(*ORDER, item, type_weight(spec).alias("weight")).filter(pl.col("item") >= 0)
        yield from known.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks().to_batches()


def _ordered(path: Path, user_cap: int) -> pl.DataFrame:
    """Return user, item, time and weight of the events of a part in order, the newest `user_cap` of each user."""
    if not path.exists():
        return pl.DataFrame(schema={"user": pl.Int64, "item": pl.Int32, "time": pl.Int64, "weight": pl.Float64})
    kept = in_order(read_once(path)).group_by("user_id", maintain_order=True).tail(user_cap)
    user = pl.col("user_id").rle_id().cast(pl.Int64).alias("user")
    return kept.select(user, "item", pl.col("event_time").dt.epoch("us").alias("time"), "weight")
