"""Training sequences of a release: the log it pins, joined with its SIDs, in user buckets and time order."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipelines.counts import Counts
from pipelines.event_log.user_buckets import (
    EventsByUser,
    TrainedSlice,
    bucket_count,
    in_buckets,
    users_with_fresh_events,
    with_sid,
)
from pipelines.event_log.visible_log import LogSlice
from pipelines.spec import SequencesSpec
from storage.commit import Provenance, append
from storage.lake import Lake
from storage.schemas import SEQUENCES

MIN_BUCKETS = 8
"""Buckets of a small log. The number enters the plan of a training and the name of its sequences, so it stays."""


@dataclass
class SequenceCounts(Counts):
    """Row counts, and the number of users with one stored event: a model learns it without history."""

    users_with_one_event: int = 0


def sequence_buckets(lake: Lake, log: LogSlice, spec: SequencesSpec) -> int:
    """Return the number of buckets of this log's sequences."""
    return spec.buckets or bucket_count(lake, log, MIN_BUCKETS)


@dataclass(frozen=True)
class SequencesJob:
    """Sequences to write: a slice of the log, joined with the SIDs of the items, under a name, in user buckets.

    `codes` (N, L) are those of `items`. Events in `trained_on` are marked. `deleted` are items that have no SID since.
    """

    name: str
    log: LogSlice
    items: pa.Array
    codes: NDArray[np.int32]
    buckets: int
    trained_on: TrainedSlice | None = None
    deleted: Collection[str] = ()


def build_sequences(lake: Lake, job: SequencesJob, provenance: Provenance) -> SequenceCounts:
    """Write the `sequences` of a job once, one commit per bucket; a call after a kill writes the missing buckets.

    Within a bucket, rows are in the order of pipelines.event_log.event_order. Events of items without a SID (deleted
    since, or never tokenized) and repeated event ids are counted, not written. Rows in `trained_on` are not `fresh`;
    users without fresh rows are then left out, so storage and training follow the new events.
    """
    counts = SequenceCounts("sequences")
    missing = [bucket for bucket in range(job.buckets) if not _written(lake, job.name, bucket)]
    if not missing:
        counts.rows_in = counts.unchanged = lake.count("sequences", lake.version("sequences"), _of(job.name))
        counts.check()
        return counts
    known = job.trained_on
    users = users_with_fresh_events(lake, job.log, job.items, known) if known else None
    wanted = EventsByUser(job.log, job.items, job.buckets, known, users)
    for bucket, events in enumerate(in_buckets(lake, wanted, counts)):
        rows = with_sid(events, job.deleted, counts)
        counts.out += rows.height
        counts.users_with_one_event += int((rows["user_id"].rle().struct.field("len") == 1).sum())
        if bucket in missing:
            append(lake, "sequences", _stored(rows, job.codes, job.name, bucket), _key(job.name, bucket), provenance)
    counts.check()
    return counts


def _stored(rows: pl.DataFrame, codes: NDArray[np.int32], release: str, bucket: int) -> pa.Table:
    """Return the rows as the table stores them."""
    levels = codes.shape[1]
    flat = pa.array(codes[rows["row"].to_numpy()].ravel())
    bounds = pa.array(levels * np.arange(rows.height + 1, dtype=np.int32))
    table = rows.drop("row").to_arrow().append_column("codes", pa.ListArray.from_arrays(bounds, flat))
    for name, value in (("release", pa.scalar(release)), ("bucket", pa.scalar(bucket, pa.int32()))):
        table = table.append_column(name, pa.repeat(value, rows.height))
    return table.select(SEQUENCES.schema.names)


def users_of_bucket(lake: Lake, release: str, bucket: int) -> NDArray[np.int64]:
    """Return the number of events of each user of one bucket, unordered."""
    where = _of(release) & (ds.field("bucket") == bucket)
    users = lake.read("sequences", columns=["user_id"], where=where)["user_id"]
    return np.asarray(pc.value_counts(users).field("counts").to_numpy(zero_copy_only=False), np.int64)


def read_bucket(lake: Lake, release: str, bucket: int) -> pa.Table:
    """Return one bucket of a release's sequences, user by user in the order of their events."""
    rows = lake.read("sequences", where=_of(release) & (ds.field("bucket") == bucket))
    users, times = (rows[name].combine_chunks() for name in ("user_id", "event_time"))
    before = pc.or_(
        pc.less(users[1:], users[:-1]), pc.and_(pc.equal(users[1:], users[:-1]), pc.less(times[1:], times[:-1]))
    )
    if not pc.any(before).as_py():
        return rows
    # A bucket is written in order, also of equal times; a compaction of the table may have moved its files.
    return rows.take(pc.sort_indices(rows, [("user_id", "ascending"), ("event_time", "ascending")]))


def _of(release: str) -> ds.Expression:
    return ds.field("release") == release


def targets(lake: Lake, release: str, negative_events: Collection[str], fresh_only: bool) -> int:
    """Return the number of events in a release's sequences that a training predicts.

    Negative events and impressions are not predicted; with `fresh_only`, nor are events of earlier trainings.
    """
    shown = ds.field("event_type").isin(sorted(negative_events))
    taken = ~shown & (ds.field("impression").is_null() | ~ds.field("impression"))
    where = _of(release) & taken & (ds.field("fresh") if fresh_only else ds.scalar(True))
    return lake.count("sequences", lake.version("sequences"), where)


def _key(release: str, bucket: int) -> str:
    return f"sequences:{release}:{bucket}"


def _written(lake: Lake, release: str, bucket: int) -> bool:
    if not lake.exists("sequences"):
        return False
    return lake.open("sequences").transaction_version(_key(release, bucket)) is not None
