"""Embed pending items with an encoder stage; commit the vectors in chunks.

The `vectors` table is the cache: a vector is keyed by content hash and fingerprint. A rerun encodes nothing, a killed
run resumes after its last chunk, and a new model writes beside the old one.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from pipelines.compute import Compute, Stage, WorkerDied
from pipelines.counts import Counts
from pipelines.modalities import Matrix, Modality
from storage.commit import Provenance, append
from storage.lake import Lake, one_of
from storage.quarantine import Reject, quarantine
from storage.reasons import Reason
from storage.schemas import VECTORS
from tokenizer.arrays.scratch import scratch_matrix
from tokenizer.arrays.vectors import as_matrix

KEY = ("item_id", "content_hash")
FEW = 10_000
"""Most items that are looked up by id; for more, all vectors of the encoder are scanned."""
# Rows that may kill a worker before the fault is taken to be elsewhere.
MOST_DEADLY = 3
PART = ", one of several"
"""Suffix of the stage of a reject that is one part of an item's content."""


def cached(lake: Lake, modality: str, fingerprint: str, items: list[str] | None = None) -> pl.DataFrame:
    """Return (item_id, content_hash) of the stored vectors."""
    return lake.frame("vectors", columns=["item_id", "content_hash"], where=_where(modality, fingerprint, items))


def read_vectors(lake: Lake, modality: str, fingerprint: str, wanted: pl.DataFrame) -> Modality | None:
    """Return the stored vectors aligned with the rows of `wanted` (item_id, content_hash); None if there are none.

    They are filled in batch by batch: memory holds little more than the matrix.
    """
    places = wanted.select("item_id", "content_hash").with_row_index("place")
    few = wanted["item_id"].to_list() if wanted.height <= FEW else None
    where = _where(modality, fingerprint, few)
    found: Modality | None = None
    for batch in lake.batches("vectors", ["item_id", "content_hash", "vector"], where):
        keys = pl.DataFrame(pa.table(batch).select(["item_id", "content_hash"])).with_row_index("row")
        both = keys.join(places, on=["item_id", "content_hash"]).unique("place", keep="first", maintain_order=True)
        if both.is_empty():
            continue
        values = as_matrix(pa.chunked_array([batch.column("vector")]))
        if found is None:
            found = Modality(scratch_matrix(wanted.height, values.shape[1]), np.zeros(wanted.height, np.bool_))
        row, place = both["row"].to_numpy(), both["place"].to_numpy()
        first = ~found.present[place]
        found.vectors[place[first]] = values[row[first]]
        found.present[place[first]] = True
    return found


def _where(modality: str, fingerprint: str, items: list[str] | None) -> ds.Expression:
    where = (ds.field("modality") == modality) & (ds.field("fingerprint") == fingerprint)
    return where if items is None else where & one_of("item_id", items)


def embed(
    lake: Lake,
    modality: str,
    fingerprint: str,
    items: pl.DataFrame,
    make: Callable[..., Stage],
    arguments: dict[str, Any],
    compute: Compute,
    chunk_rows: int,
    provenance: Provenance,
    advance: Callable[[int], None],
    task_rows: int | None = None,
) -> Counts:
    """Encode the items (item_id, content_hash, columns the stage reads) that have no vector yet, and store them.

    A worker gets `task_rows` items at a time; a commit holds `chunk_rows`.

    `unchanged` counts vectors that already exist. Refused rows go to quarantine; they are retried when their content
    changes or by `sidmill quarantine retry`.
    """
    counts = Counts(f"embed {modality}", rows_in=items.height)
    refused = pl.DataFrame(schema=dict.fromkeys(KEY, pl.String))

    def undone(rows: pl.DataFrame) -> pl.DataFrame:
        stored = cached(lake, modality, fingerprint, rows["item_id"].to_list())
        return rows.join(pl.concat([stored.select(KEY), refused]), on=KEY, how="anti", maintain_order="left")

    def encoded(rows: pl.DataFrame) -> Iterator[pa.Table]:
        tasks = min(task_rows or chunk_rows, chunk_rows)
        return _chunked(compute.map(make, arguments, rows.to_arrow(), tasks), chunk_rows)

    pending = _in_order(undone(items), make)
    counts.unchanged = items.height - pending.height
    advance(counts.unchanged)
    for done in _until_done(pending, encoded, undone):
        refused = refused.vstack(_store(lake, modality, fingerprint, done, counts, provenance))
        advance(done.num_rows)
    return counts.check()


def _in_order(items: pl.DataFrame, make: Callable[..., Stage]) -> pl.DataFrame:
    """Sort by item_id, or longest first if the stage asks for it."""
    length = getattr(make, "longest_first", None)
    ordered = items.sort("item_id")
    return ordered if length is None else ordered.sort(length, descending=True, maintain_order=True)


def _until_done(
    pending: pl.DataFrame,
    encoded: Callable[[pl.DataFrame], Iterator[pa.Table]],
    undone: Callable[[pl.DataFrame], pl.DataFrame],
) -> Iterator[pa.Table]:
    """Yield all rows through the stage, even if rows kill the process that encodes them.

    The rows that a death leaves `undone` are halved and retried until the deadly row is alone. Up to MOST_DEADLY such
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
            if (deadly := deadly + left.height) > MOST_DEADLY:
                raise
            if left.height:
                yield _refused(left, Reason.ENCODER_CRASHED, str(death))


def _refused(rows: pl.DataFrame, reason: str, detail: str) -> pa.Table:
    return rows.select(
        *KEY,
        vector=pl.lit(None, pl.List(pl.Float32)),
        reason=pl.lit(reason, pl.String),
        detail=pl.lit(detail, pl.String),
    ).to_arrow()


def _chunked(batches: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Join batches until they hold at least `rows` rows: one commit each."""
    waiting: list[pa.Table] = []
    for batch in batches:
        waiting.append(batch)
        if sum(each.num_rows for each in waiting) >= rows:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _store(
    lake: Lake, modality: str, fingerprint: str, done: pa.Table, counts: Counts, provenance: Provenance
) -> pl.DataFrame:
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
        source = f"{modality}@{row['content_hash']}"
        rejects.append(Reject(stage, row["reason"], row["detail"], source, 0, row["item_id"]))
    quarantine(lake, rejects, provenance)
    if good.height:
        rows = good.select(*KEY, "vector").with_columns(modality=pl.lit(modality), fingerprint=pl.lit(fingerprint))
        store_vectors(lake, rows, provenance)
    return frame.filter(pl.col("vector").is_null()).select(KEY)


def store_vectors(lake: Lake, rows: pl.DataFrame, provenance: Provenance) -> None:
    """Append vectors under a key of their identity, so that a rerun writes them once."""
    ordered = rows.with_columns(pl.col("vector").cast(pl.List(pl.Float32))).sort("item_id", "content_hash")
    name = "\0".join(f"{item}\0{content}" for item, content in ordered.select("item_id", "content_hash").iter_rows())
    first = ordered.row(0, named=True)
    digest = hashlib.sha256(name.encode()).hexdigest()[:24]
    key = f"vectors:{first['modality']}:{first['fingerprint']}:{digest}"
    append(lake, "vectors", ordered.select(VECTORS.schema.names).to_arrow(), key, provenance)


def matrix(vectors: pl.DataFrame) -> Matrix:
    """Return the `vector` column as an (N, D) float32 array."""
    if vectors.is_empty():
        return np.zeros((0, 0), dtype=np.float32)
    return as_matrix(pa.chunked_array([vectors["vector"].to_arrow()]))
