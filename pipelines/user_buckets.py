"""A log of any size, user by user: spread over scratch files by the bucket of the user, then read a bucket at a time.

The log is read in small batches, each once. What is held is a batch and a bucket, whatever the size of the log.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipelines.behaviour import LogSlice
from pipelines.ingest import Counts
from storage.lake import Lake
from storage.schemas import INTERACTIONS
from tokenizer.items import tie_keys

EVENT = ["event_id", "user_id", "item_id", "event_type", "event_time", "impression", "session_id"]
ORDER = ["user_id", "event_time", "event_id"]
BUCKET_EVENTS = 500_000
BATCH_ROWS = 1 << 17


def bucket_count(lake: Lake, log: LogSlice, fewest: int = 1) -> int:
    """How many buckets of about BUCKET_EVENTS events there are."""
    return max(fewest, -(-lake.count("interactions", log.version, log.visible) // BUCKET_EVENTS))


def user_buckets(users: pa.Array, buckets: int) -> NDArray[np.int64]:
    """Stable bucket of each user, int64 (n,)."""
    return ((tie_keys(users) >> np.uint64(16)) % np.uint64(buckets)).astype(np.int64)


def in_buckets(
    lake: Lake,
    log: LogSlice,
    items: pa.Array,
    buckets: int,
    counts: Counts,
    learnt: LogSlice | None = None,
    users: pa.Array | None = None,
) -> Iterator[pl.DataFrame]:
    """The visible events, bucket by bucket: EVENT, `row` and `fresh`, in ORDER and each once.

    `row` is the item's place in `items`, null where it is none of them. `fresh` are events that the slice `learnt` does
    not hold. With `users` those of all others are passed over. Repeated event ids are counted.
    """
    with TemporaryDirectory(prefix="sidmill-buckets-") as scratch:
        _spread(lake, log, items, buckets, Path(scratch), counts, learnt, users)
        for bucket in range(buckets):
            yield _in_order(Path(scratch) / str(bucket), counts)


def users_with_fresh_events(lake: Lake, log: LogSlice, learnt: LogSlice) -> pa.Array:
    """Who has a visible event that the slice `learnt` does not hold; files without one are not read."""
    fresh = log.visible & ((ds.field("arrival_time") > learnt.as_of) | (ds.field("event_time") >= learnt.cutoff))
    batches = lake.batches("interactions", ["user_id"], fresh, BATCH_ROWS, log.version)
    users = [pc.unique(batch.column("user_id")) for batch in batches]
    return pc.unique(pa.concat_arrays([pa.array([], pa.string()), *users]))


def _spread(
    lake: Lake,
    log: LogSlice,
    items: pa.Array,
    buckets: int,
    scratch: Path,
    counts: Counts,
    learnt: LogSlice | None,
    users: pa.Array | None,
) -> None:
    """A file for each bucket."""
    where = log.visible if users is None else log.visible & ds.field("user_id").isin(users)
    with ExitStack() as stack:
        writers: list[pa.ipc.RecordBatchStreamWriter] = []
        for batch in lake.batches("interactions", [*EVENT, "arrival_time"], where, BATCH_ROWS, log.version):
            counts.rows_in += batch.num_rows
            batch = batch.append_column("row", pc.index_in(batch.column("item_id"), items))
            batch = batch.append_column("fresh", _fresh(batch, learnt)).drop_columns(["arrival_time"])
            bucket = user_buckets(batch.column("user_id"), buckets)
            if not writers:
                for name in range(buckets):
                    sink = stack.enter_context(pa.OSFile(str(scratch / str(name)), "wb"))
                    writers.append(stack.enter_context(pa.ipc.new_stream(sink, batch.schema)))
            order = np.argsort(bucket, kind="stable")
            bounds = np.searchsorted(bucket[order], np.arange(buckets + 1))
            spread = batch.take(pa.array(order))
            for name, (start, stop) in enumerate(pairwise(bounds)):
                if stop > start:
                    writers[name].write_batch(spread.slice(start, stop - start))


def _fresh(batch: pa.RecordBatch, learnt: LogSlice | None) -> pa.Array:
    if learnt is None:
        return pa.array(np.ones(batch.num_rows, np.bool_))
    arrived = pc.less_equal(batch.column("arrival_time"), pa.scalar(learnt.as_of, batch.column("arrival_time").type))
    happened = pc.less(batch.column("event_time"), pa.scalar(learnt.cutoff, batch.column("event_time").type))
    return pc.invert(pc.and_(arrived, happened))


def _in_order(path: Path, counts: Counts) -> pl.DataFrame:
    """The events of a bucket in their order, each once."""
    if not path.exists():
        log = pa.schema([INTERACTIONS.schema.field(name) for name in EVENT])
        none = log.append(pa.field("row", pa.int32())).append(pa.field("fresh", pa.bool_())).empty_table()
        return pl.DataFrame(none)
    with pa.OSFile(str(path), "rb") as source:
        rows = pl.DataFrame(pa.ipc.open_stream(source).read_all())
    path.unlink()
    ordered = rows.sort(ORDER)
    once = ordered.unique("event_id", keep="first", maintain_order=True)
    counts.refuse("duplicate_event", ordered.height - once.height)
    return once
