"""Reading of a log of any size by user: events are spread over scratch files by user bucket, then read by bucket.

The log is read in small batches, each once. Memory holds one batch and one bucket, whatever the size of the log.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from infra.scratch import ScratchFolder
from pipelines.counts import Counts
from pipelines.event_log.event_order import ARRIVAL_ORDER, in_order
from pipelines.event_log.visible_log import LogSlice
from storage.lake import Lake
from storage.reasons import Reason
from storage.schemas import INTERACTIONS
from tokenizer.arrays.items import tie_keys

EVENT = ["event_id", "user_id", "item_id", "event_type", "event_time", "impression", "session_id"]
FILE = "__filename"
"""Name of Arrow's column with the file of a row."""
BUCKET_EVENTS = 500_000
"""Events of a bucket, the part that is in memory at a time. Smaller buckets make more files and commits."""
MAX_BUCKETS = 512
"""Most buckets. Each has an open file while a log is spread; a larger log has larger buckets."""
BATCH_ROWS = 1 << 17
"""Rows of the log that are read at a time: each is one write to every bucket, so smaller ones write smaller pieces."""


@dataclass(frozen=True)
class TrainedSlice:
    """Data that a model was trained on: the events of a log slice whose items had a SID then."""

    log: LogSlice
    items: pa.Array


@dataclass(frozen=True)
class EventsByUser:
    """The part of the log that is read: the events of a slice, in `buckets` of users, with their place among `items`.

    `trained_on` is what a model has learnt from. With `users`, only their events are read.
    """

    log: LogSlice
    items: pa.Array
    buckets: int
    trained_on: TrainedSlice | None = None
    users: pa.Array | None = None


def bucket_count(lake: Lake, log: LogSlice, fewest: int = 1) -> int:
    """Return the number of buckets for about BUCKET_EVENTS events each, at most MAX_BUCKETS."""
    events = lake.count("interactions", log.version, log.visible)
    return max(fewest, min(MAX_BUCKETS, -(-events // BUCKET_EVENTS)))


def user_buckets(users: pa.Array, buckets: int) -> NDArray[np.int64]:
    """Return the stable bucket of each user, int64 (n,)."""
    return ((tie_keys(users) >> np.uint64(16)) % np.uint64(buckets)).astype(np.int64)


def with_sid(rows: pl.DataFrame, deleted: Collection[str], counts: Counts) -> pl.DataFrame:
    """Return the rows of a bucket whose item has a SID; count the others, those of `deleted` items separately."""
    unknown = rows.filter(pl.col("row").is_null())["item_id"]
    of_deleted = int(unknown.is_in(list(deleted)).sum())
    counts.refuse(Reason.ITEM_DELETED, of_deleted)
    counts.refuse(Reason.ITEM_WITHOUT_SID, len(unknown) - of_deleted)
    return rows.drop_nulls("row")


def in_buckets(lake: Lake, wanted: EventsByUser, counts: Counts) -> Iterator[pl.DataFrame]:
    """Yield the visible events bucket by bucket: EVENT, `row` and `fresh`, in order and without repeats.

    `row` is the item's index in `items`, null if it is not there. `fresh` marks events that are not in `trained_on`:
    its slice does not hold them, by its version or its times, or their item had no SID. Repeated event ids are counted;
    an event of which a copy was trained on is not fresh.
    """
    items, buckets, trained_on = wanted.items, wanted.buckets, wanted.trained_on
    had_sid = np.asarray(pc.is_in(items, trained_on.items), np.bool_) if trained_on else np.ones(len(items), np.bool_)
    with ScratchFolder("buckets") as scratch:
        rows, trained_ids = Path(scratch) / "rows", Path(scratch) / "trained"
        spread(_events(lake, wanted, counts), buckets, rows)
        if trained_on is not None:
            spread(_rewritten(lake, wanted.log, trained_on), buckets, trained_ids)
        for bucket in range(buckets):
            # Items are looked up once per bucket: each lookup costs time in the number of all items.
            known = _in_order(rows / str(bucket), trained_ids / str(bucket), counts)
            row = pl.Series("row", pc.index_in(known["item_id"].to_arrow().cast(items.type), items))
            new = pl.Series(~had_sid).gather(row)
            yield known.with_columns(row, pl.col("fresh") | new.fill_null(False)).select(*EVENT, "row", "fresh")


def users_with_fresh_events(lake: Lake, log: LogSlice, items: pa.Array, trained_on: TrainedSlice) -> pa.Array:
    """Return the users with a visible event that is not in `trained_on`.

    Files without such an event are not read, unless some items had no SID. If the table was compacted since, if events
    came again, or if new events are of no item of `items`, users with nothing to learn may be included.
    """
    old = trained_on.log
    new_items = items.filter(pc.invert(pc.is_in(items, trained_on.items)))
    fresh = (ds.field("arrival_time") > old.as_of) | (ds.field("event_time") >= old.cutoff)
    if len(new_items):
        fresh |= ds.field("item_id").isin(new_items)
    table, columns = "interactions", ["user_id"]
    added = lake.added_files(table, old.version, log.version)
    batches = chain(
        lake.batches(table, columns, log.visible & fresh, BATCH_ROWS, log.version),
        lake.file_batches(table, added, columns, log.visible, BATCH_ROWS),
    )
    users = [pc.unique(batch.column("user_id")) for batch in batches]
    return pc.unique(pa.concat_arrays([pa.array([], pa.string()), *users]))


def _events(lake: Lake, wanted: EventsByUser, counts: Counts) -> Iterator[pa.RecordBatch]:
    """Yield the visible events with `fresh`, unordered."""
    log, trained_on, users = wanted.log, wanted.trained_on, wanted.users
    where = log.visible if users is None else log.visible & ds.field("user_id").isin(users)
    known = lake.file_names("interactions", trained_on.log.version) if trained_on else set()
    columns = [*EVENT, *ARRIVAL_ORDER, *([] if trained_on is None else [FILE])]
    for batch in lake.batches("interactions", columns, where, BATCH_ROWS, log.version):
        counts.rows_in += batch.num_rows
        yield batch.append_column("fresh", _fresh(batch, trained_on, known)).select([*EVENT, *ARRIVAL_ORDER, "fresh"])


def _rewritten(lake: Lake, log: LogSlice, trained_on: TrainedSlice) -> Iterator[pa.RecordBatch]:
    """Yield user and id of events trained on, in files that a compaction has since removed; mostly there are none."""
    columns, old = ["user_id", "event_id"], trained_on.log
    gone = lake.added_files("interactions", log.version, old.version)
    return lake.file_batches("interactions", gone, columns, old.visible, BATCH_ROWS)


def spread(batches: Iterator[pa.RecordBatch], buckets: int, folder: Path) -> None:
    """Write a file for each bucket; none if there are no rows."""
    folder.mkdir()
    with ExitStack() as stack:
        writers: list[pa.ipc.RecordBatchStreamWriter] = []
        for batch in batches:
            bucket = user_buckets(batch.column("user_id"), buckets)
            if not writers:
                for name in range(buckets):
                    sink = stack.enter_context(pa.OSFile(str(folder / str(name)), "wb"))
                    writers.append(stack.enter_context(pa.ipc.new_stream(sink, batch.schema)))
            order = np.argsort(bucket, kind="stable")
            bounds = np.searchsorted(bucket[order], np.arange(buckets + 1))
            spread = batch.take(pa.array(order))
            for name, (start, stop) in enumerate(pairwise(bounds)):
                if stop > start:
                    writers[name].write_batch(spread.slice(start, stop - start))


def _fresh(batch: pa.RecordBatch, trained_on: TrainedSlice | None, known: set[str]) -> pa.Array:
    """Return a mask of the batch's events that the slice does not hold; `known` are the names of its files."""
    if trained_on is None or (batch.num_rows and batch.column(FILE)[0].as_py().rsplit("/", 1)[-1] not in known):
        return pa.array(np.ones(batch.num_rows, np.bool_))
    times = {"arrival_time": trained_on.log.as_of, "event_time": trained_on.log.cutoff}
    as_of, cutoff = (pa.scalar(time, batch.column(name).type) for name, time in times.items())
    arrived = pc.less_equal(batch.column("arrival_time"), as_of)
    happened = pc.less(batch.column("event_time"), cutoff)
    return pc.invert(pc.and_(arrived, happened))


def _in_order(path: Path, trained_ids: Path, counts: Counts) -> pl.DataFrame:
    """Return the events of a bucket in order, each once: the copy in the slice, or the one that arrived first."""
    if not path.exists():
        log = pa.schema([INTERACTIONS.schema.field(name) for name in (*EVENT, *ARRIVAL_ORDER)])
        return pl.DataFrame(log.append(pa.field("fresh", pa.bool_())).empty_table())
    rows = read_once(path)
    if trained_ids.exists():
        known = read_once(trained_ids)["event_id"].unique()
        rows = rows.with_columns(pl.col("fresh") & ~pl.col("event_id").is_in(known.implode()))
    once = rows
    if rows["event_id"].n_unique() < rows.height:
        copies = rows.sort("user_id", "event_time", "event_id", "fresh", *ARRIVAL_ORDER, maintain_order=True)
        once = copies.unique("event_id", keep="first", maintain_order=True)
    counts.refuse(Reason.DUPLICATE_EVENT, rows.height - once.height)
    return in_order(once)


def read_once(path: Path) -> pl.DataFrame:
    with pa.OSFile(str(path), "rb") as source:
        rows = pl.DataFrame(pa.ipc.open_stream(source).read_all())
    path.unlink()
    return rows
