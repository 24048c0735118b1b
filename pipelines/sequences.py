"""Build a release's training sequences: the log it pins, joined with its SIDs, in user buckets and time order.

The log is read once in small batches, which are spread over scratch files by the bucket of their user; then a bucket at
a time is sorted and stored. What is held is a batch and a bucket, whatever the size of the log.
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
from pipelines.spec import SequencesSpec
from storage.commit import Provenance, append
from storage.lake import Lake
from storage.schemas import SEQUENCES
from tokenizer.items import tie_keys

EVENT = ["event_id", "user_id", "item_id", "event_type", "event_time", "impression"]
ORDER = ["user_id", "event_time", "event_id"]
BUCKET_EVENTS, FEWEST_BUCKETS = 500_000, 8
BATCH_ROWS = 1 << 17


def bucket_count(lake: Lake, log: LogSlice, spec: SequencesSpec) -> int:
    """How many buckets the sequences of this log have."""
    if spec.buckets:
        return spec.buckets
    return max(FEWEST_BUCKETS, -(-lake.count("interactions", log.version, log.visible) // BUCKET_EVENTS))


def user_buckets(users: pa.Array, buckets: int) -> NDArray[np.int64]:
    """Stable bucket of each user, int64 (n,)."""
    return ((tie_keys(users) >> np.uint64(16)) % np.uint64(buckets)).astype(np.int64)


def build_sequences(
    lake: Lake,
    release: str,
    log: LogSlice,
    items: pa.Array,
    codes: NDArray[np.int32],
    buckets: int,
    provenance: Provenance,
    learnt: LogSlice | None = None,
) -> Counts:
    """Write the `sequences` of a release once, a commit for each bucket; a call after a kill writes what lacks.

    Within a bucket, rows are ordered by user, event time and event id. Events of items without a SID (deleted since, or
    never tokenized) and repeated event ids are counted, not written. Rows that the slice `learnt` holds as well are
    not `fresh`.
    """
    counts = Counts("sequences")
    missing = [bucket for bucket in range(buckets) if not _written(lake, release, bucket)]
    if not missing:
        counts.rows_in = counts.unchanged = lake.count("sequences", lake.version("sequences"), _of(release))
        return counts.check()
    with TemporaryDirectory(prefix="sidmill-sequences-") as scratch:
        spread(lake, log, items, buckets, Path(scratch), counts, learnt)
        for bucket in range(buckets):
            rows = in_order(Path(scratch) / str(bucket), counts)
            counts.out += rows.height
            if bucket in missing:
                append(lake, "sequences", _stored(rows, codes, release, bucket), _key(release, bucket), provenance)
    return counts.check()


def _stored(rows: pl.DataFrame, codes: NDArray[np.int32], release: str, bucket: int) -> pa.Table:
    """The rows as the table holds them."""
    levels = codes.shape[1]
    flat = pa.array(codes[rows["row"].to_numpy()].ravel())
    bounds = pa.array(np.arange(0, levels * rows.height + 1, levels, dtype=np.int32))
    table = rows.drop("row").to_arrow().append_column("codes", pa.ListArray.from_arrays(bounds, flat))
    for name, value in (("release", pa.scalar(release)), ("bucket", pa.scalar(bucket, pa.int32()))):
        table = table.append_column(name, pa.repeat(value, rows.height))
    return table.select(SEQUENCES.schema.names)


def spread(
    lake: Lake,
    log: LogSlice,
    items: pa.Array,
    buckets: int,
    scratch: Path,
    counts: Counts,
    learnt: LogSlice | None,
) -> None:
    """The events that have a SID, in a file for each bucket; `row` is that of their item."""
    with ExitStack() as stack:
        writers: list[pa.ipc.RecordBatchStreamWriter] = []
        for batch in _events(lake, log):
            counts.rows_in += batch.num_rows
            row = pc.index_in(batch.column("item_id"), items)
            batch = batch.append_column("row", row).append_column("fresh", _fresh(batch, learnt))
            batch = batch.drop_columns(["arrival_time"]).filter(pc.is_valid(row))
            counts.refuse("item_without_sid", row.null_count)
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


def _events(lake: Lake, log: LogSlice) -> Iterator[pa.RecordBatch]:
    columns = [*EVENT, "arrival_time"]
    return lake.batches("interactions", columns, log.visible, BATCH_ROWS, log.version)


def _fresh(batch: pa.RecordBatch, learnt: LogSlice | None) -> pa.Array:
    if learnt is None:
        return pa.array(np.ones(batch.num_rows, np.bool_))
    arrived = pc.less_equal(batch.column("arrival_time"), pa.scalar(learnt.as_of, batch.column("arrival_time").type))
    happened = pc.less(batch.column("event_time"), pa.scalar(learnt.cutoff, batch.column("event_time").type))
    return pc.invert(pc.and_(arrived, happened))


def in_order(path: Path, counts: Counts) -> pl.DataFrame:
    """The events of a bucket in their order, each once."""
    if not path.exists():
        return pl.DataFrame(schema=dict.fromkeys(EVENT, pl.String) | {"row": pl.Int32, "fresh": pl.Boolean})
    with pa.OSFile(str(path), "rb") as source:
        rows = pl.DataFrame(pa.ipc.open_stream(source).read_all())
    path.unlink()
    ordered = rows.sort(ORDER)
    once = ordered.unique("event_id", keep="first", maintain_order=True)
    counts.refuse("duplicate_event", ordered.height - once.height)
    return once


def read_bucket(lake: Lake, release: str, bucket: int) -> pa.Table:
    """One bucket of a release's sequences, ordered by user, event time and event id."""
    rows = lake.read("sequences", where=_of(release) & (ds.field("bucket") == bucket))
    users, times = (rows[name].combine_chunks() for name in ("user_id", "event_time"))
    before = pc.or_(
        pc.less(users[1:], users[:-1]), pc.and_(pc.equal(users[1:], users[:-1]), pc.less_equal(times[1:], times[:-1]))
    )
    # As it was written it is in order; a compaction of the table may have moved rows.
    return rows.sort_by([(name, "ascending") for name in ORDER]) if pc.any(before).as_py() else rows


def _of(release: str) -> ds.Expression:
    return ds.field("release") == release


def fresh_of(release: str) -> ds.Expression:
    """What holds for the sequences of a release that no former training has learnt from."""
    return _of(release) & ds.field("fresh")


def _key(release: str, bucket: int) -> str:
    return f"sequences:{release}:{bucket}"


def _written(lake: Lake, release: str, bucket: int) -> bool:
    if not lake.exists("sequences"):
        return False
    return lake.open("sequences").transaction_version(_key(release, bucket)) is not None
