"""Embed pending items with an encoder stage; commit the vectors in chunks.

The `vectors` table is the cache: a vector is keyed by content hash and fingerprint. A rerun encodes nothing, a killed
run resumes after its last chunk, and a new model writes beside the old one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from pipelines.compute.executors import Compute, Stage, WorkerDied
from pipelines.counts import Counts
from pipelines.vector_store import cached, store_vectors
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import Reject, quarantine
from storage.reasons import Reason

KEY = ("item_id", "content_hash")
# Rows that may kill a worker before the fault is taken to be elsewhere.
MAX_DEADLY = 3
COMMITS, MAX_ROWS = 256, 1 << 14
"""Commits of a stage of many items, and most rows of one, which this process holds until then."""
PART = ", one of several"
"""Suffix of the stage of a reject that is one part of an item's content."""


@dataclass(frozen=True)
class EncodingJob:
    """Encoding of one modality: the stage with its arguments, and the fingerprint of the vectors that it makes.

    A worker gets `task_rows` items at a time, `chunk_rows` if None; a commit holds `commit_rows`.
    """

    modality: str
    fingerprint: str
    stage: Callable[..., Stage]
    arguments: dict[str, Any]
    chunk_rows: int
    task_rows: int | None = None

    def commit_rows(self, items: int) -> int:
        """Return the rows of a commit of a stage with some items, those included that have their vector already.

        They are `chunk_rows`, or as many as make COMMITS commits, but at most MAX_ROWS: a kill loses at most that. A
        catalogue of up to COMMITS * MAX_ROWS items makes at most COMMITS files. A rerun has commits of the same size.
        """
        return max(self.chunk_rows, min(-(-items // COMMITS), MAX_ROWS))

    def in_order(self, items: pl.DataFrame) -> pl.DataFrame:
        """Sort by item_id, or longest first if the stage asks for it."""
        length = getattr(self.stage, "longest_first", None)
        ordered = items.sort("item_id")
        return ordered if length is None else ordered.sort(length, descending=True, maintain_order=True)


def embed(
    lake: Lake,
    job: EncodingJob,
    items: pl.DataFrame,
    compute: Compute,
    provenance: Provenance,
    advance: Callable[[int], None],
) -> Counts:
    """Encode the items (item_id, content_hash, columns the stage reads) that have no vector yet, and store them.

    `unchanged` counts vectors that already exist. Refused rows go to quarantine; they are retried when their content
    changes or by `sidmill quarantine retry`. `advance` gets numbers of rows as workers return them, before a
    commit; rows that must be encoded again because a worker died are taken back.
    """
    counts = Counts(f"embed {job.modality}", rows_in=items.height)
    refused = pl.DataFrame(schema=dict.fromkeys(KEY, pl.String))
    commit_rows = job.commit_rows(items.height)

    def undone(rows: pl.DataFrame) -> pl.DataFrame:
        stored = cached(lake, job.modality, job.fingerprint, rows["item_id"])
        return rows.join(pl.concat([stored.select(KEY), refused]), on=KEY, how="anti", maintain_order="left")

    def encoded(rows: pl.DataFrame) -> Iterator[pa.Table]:
        tasks = min(job.task_rows or job.chunk_rows, job.chunk_rows)
        return _rebatched(compute.map(job.stage, job.arguments, rows.to_arrow(), tasks), commit_rows, advance)

    pending = job.in_order(undone(items))
    counts.unchanged = items.height - pending.height
    advance(counts.unchanged)
    for done in _until_done(pending, encoded, undone, advance):
        refused = refused.vstack(_store(lake, job, done, counts, provenance))
    return counts.check()


def _until_done(
    pending: pl.DataFrame,
    encoded: Callable[[pl.DataFrame], Iterator[pa.Table]],
    undone: Callable[[pl.DataFrame], pl.DataFrame],
    advance: Callable[[int], None],
) -> Iterator[pa.Table]:
    """Yield all rows through the stage, even if rows kill the process that encodes them.

    The rows that a death leaves `undone` are halved and retried until the deadly row is alone. Up to MAX_DEADLY such
    rows are refused; with one more, the fault is not in the rows and WorkerDied is raised.
    """
    halves, deadly = [pending], 0
    while halves:
        rows = halves.pop()
        try:
            yield from encoded(rows)
        except WorkerDied as death:
            left = undone(rows)
            if left.height > 1:
                halves += [left.slice(left.height // 2), left.slice(0, left.height // 2)]
                continue
            if (deadly := deadly + left.height) > MAX_DEADLY:
                raise
            if left.height:
                advance(left.height)
                yield _refused(left, Reason.ENCODER_CRASHED, str(death))


def _refused(rows: pl.DataFrame, reason: str, detail: str) -> pa.Table:
    return rows.select(
        *KEY,
        vector=pl.lit(None, pl.List(pl.Float32)),
        reason=pl.lit(reason, pl.String),
        detail=pl.lit(detail, pl.String),
    ).to_arrow()


def _rebatched(batches: Iterator[pa.Table], rows: int, advance: Callable[[int], None]) -> Iterator[pa.Table]:
    """Join batches until they hold at least `rows` rows: one commit each."""
    waiting: list[pa.Table] = []
    try:
        for batch in batches:
            waiting.append(batch)
            advance(batch.num_rows)
            if sum(each.num_rows for each in waiting) >= rows:
                yield pa.concat_tables(waiting)
                waiting = []
    except WorkerDied:
        advance(-sum(each.num_rows for each in waiting))
        raise
    if waiting:
        yield pa.concat_tables(waiting)


def _store(lake: Lake, job: EncodingJob, done: pa.Table, counts: Counts, provenance: Provenance) -> pl.DataFrame:
    """Store vectors and quarantine refused rows; return (item_id, content_hash) of those without a vector."""
    frame = pl.DataFrame(done)
    good = frame.filter(pl.col("vector").is_not_null())
    counts.out += good.height
    rejects = []
    for row in frame.filter(pl.col("reason").is_not_null()).to_dicts():
        stage = counts.stage
        if row["vector"] is None:
            counts.refuse(row["reason"], detail=row["detail"])
        else:  # the other parts of the item gave a vector
            stage += PART
        source = f"{job.modality}@{row['content_hash']}"
        rejects.append(Reject(stage, row["reason"], row["detail"], source, 0, row["item_id"]))
    quarantine(lake, rejects, provenance)
    if good.height:
        rows = good.select(*KEY, "vector").with_columns(
            modality=pl.lit(job.modality), fingerprint=pl.lit(job.fingerprint)
        )
        store_vectors(lake, rows, provenance)
    return frame.filter(pl.col("vector").is_null()).select(KEY)
