"""Build a release's training sequences: the log it pins, joined with its SIDs, in user buckets and time order."""

import hashlib
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from pipelines.behaviour import LogSlice
from pipelines.compute import Compute
from pipelines.ingest import BATCH_ROWS, Counts
from pipelines.spec import SequencesSpec
from storage.commit import Provenance, append
from storage.lake import Lake
from storage.schemas import SEQUENCES

_EVENT = ["event_id", "user_id", "item_id", "event_type", "event_time", "impression"]


class JoinSids:
    """Stage: events get the codes of their item and the bucket of their user."""

    reads = ("user_id", "item_id")
    adds = ("codes", "bucket", "reason", "detail")

    def __init__(self, items: pa.Array, codes: np.ndarray[Any, Any], buckets: int) -> None:
        self._sids = pl.DataFrame(
            {"item_id": pl.Series(items, dtype=pl.String), "codes": pl.Series(codes.tolist(), dtype=pl.List(pl.Int32))}
        )
        self._buckets = buckets

    def __call__(self, batch: pa.Table) -> pa.Table:
        users = batch.column("user_id").to_pylist()
        joined = pl.DataFrame(batch).join(self._sids, on="item_id", how="left", maintain_order="left")
        return joined.with_columns(
            pl.Series("bucket", [user_bucket(user, self._buckets) for user in users], dtype=pl.Int32),
            reason=pl.when(pl.col("codes").is_null()).then(pl.lit("item_without_sid")),
            detail=pl.lit(""),
        ).to_arrow()


def user_bucket(user: str, buckets: int) -> int:
    """Stable bucket of a user."""
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "little") % buckets


def build_sequences(
    lake: Lake,
    release: str,
    log: LogSlice,
    items: pa.Array,
    codes: np.ndarray[Any, Any],
    spec: SequencesSpec,
    compute: Compute,
    provenance: Provenance,
) -> Counts:
    """Write the `sequences` of a release once; events of items without a SID are counted, not written.

    Within a bucket, rows are ordered by user, event time and event id.
    """
    counts = Counts("sequences")
    events = log.read(lake, _EVENT).sort("user_id", "event_time", "event_id").to_arrow()
    counts.rows_in = events.num_rows
    arguments = {"items": items, "codes": codes, "buckets": spec.buckets}
    joined = [pl.DataFrame(batch) for batch in compute.map(JoinSids, arguments, events, BATCH_ROWS)]
    rows = pl.concat(joined) if joined else pl.DataFrame(schema={"reason": pl.String})
    counts.refuse("item_without_sid", rows.filter(pl.col("reason").is_not_null()).height)
    counts.out = rows.height - counts.quarantined
    if counts.out:
        kept = rows.filter(pl.col("reason").is_null()).with_columns(release=pl.lit(release))
        ordered = kept.sort("bucket", "user_id", "event_time", "event_id").select(SEQUENCES.schema.names)
        append(lake, "sequences", ordered.to_arrow(), f"sequences:{release}", provenance)
    return counts.check()


def read_bucket(lake: Lake, release: str, bucket: int) -> pa.Table:
    """One bucket of a release's sequences, ordered by user, event time and event id."""
    where = (ds.field("release") == release) & (ds.field("bucket") == bucket)
    rows = lake.read("sequences", where=where)
    return rows.sort_by([("user_id", "ascending"), ("event_time", "ascending"), ("event_id", "ascending")])
