"""Give items their SIDs: what is published stays, what is new gets codes that are free and within capacity."""

import hashlib
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from pipelines.embed import matrix
from pipelines.fuse import FUSED
from pipelines.ingest import Counts
from storage.commit import Provenance, append
from storage.lake import Lake, TableRef, one_of
from storage.quarantine import Reject, quarantine
from storage.schemas import DRIFT, SIDS
from tokenizer.codebook import Codebook
from tokenizer.encode import Assignment, Occupancy, Status

REFIT_DUE = "refit_due"


def vector_hash(vector: np.ndarray[Any, Any]) -> str:
    """Hash of the bytes a SID was assigned from."""
    return hashlib.blake2b(np.ascontiguousarray(vector, dtype="<f4").tobytes(), digest_size=16).hexdigest()


def occupancy(lake: Lake, codebook: Codebook, assignments: list[str]) -> Occupancy:
    """Every SID of the given assignments: taken for good, deleted and rolled-back items included."""
    where = (ds.field("codebook") == codebook.id) & one_of("assignment_id", assignments)
    rows = lake.read("sids", columns=["codes"], where=where)
    if rows.num_rows == 0:
        return Occupancy.empty(len(codebook.sizes))
    flat = pa.concat_arrays([chunk.flatten() for chunk in rows.column("codes").chunks])
    return Occupancy(codes=flat.to_numpy(zero_copy_only=False).astype(np.int32).reshape(rows.num_rows, -1))


def write_segment(
    lake: Lake,
    assignment_id: str,
    codebook: Codebook,
    vectors: pl.DataFrame,
    assignment: Assignment,
    provenance: Provenance,
) -> tuple[TableRef, Counts]:
    """Append one segment of the SID table; items for which no room is left are quarantined as `refit_due`.

    `vectors` (item_id, content_hash, vector) are aligned with `assignment`.
    """
    codes, status = assignment.codes, [Status(value).label for value in assignment.status]
    counts = Counts("assign", rows_in=vectors.height)
    placed = codes[:, 0] >= 0
    rejects = [
        Reject("assign", REFIT_DUE, f"codebook {codebook.id} has no free SID near it", f"assign@{content}", 0, item)
        for item, content in vectors.select("item_id", "content_hash").filter(pl.Series(~placed)).iter_rows()
    ]
    counts.refuse(REFIT_DUE, len(rejects))
    quarantine(lake, rejects, provenance)
    counts.out = int(placed.sum())
    values = matrix(vectors)
    rows = pa.table(
        {
            "assignment_id": pa.array([assignment_id] * counts.out, pa.string()),
            "codebook": pa.array([codebook.id] * counts.out, pa.string()),
            "item_id": pa.array(vectors["item_id"].filter(pl.Series(placed)).to_list(), pa.string()),
            "codes": pa.array(codes[placed].tolist(), pa.list_(pa.int32())),
            "vector_hash": pa.array([vector_hash(values[row]) for row in np.flatnonzero(placed)], pa.string()),
            "status": pa.array([name for name, good in zip(status, placed, strict=True) if good], pa.string()),
        },
        schema=SIDS.schema,
    )
    commit = append(lake, "sids", rows, f"sids:{assignment_id}", provenance)
    return commit.ref, counts.check()


def record_drift(
    lake: Lake,
    assignment_id: str,
    published: pl.DataFrame,
    current: pl.DataFrame,
    encoded: pl.DataFrame,
    provenance: Provenance,
) -> pl.DataFrame:
    """Record the items whose vector is no longer the one their SID encodes; the SID stays.

    `published`: (item_id, vector_hash) of the SID table; `current`: (item_id, vector) now; `encoded`: (item_id,
    vector) as assigned, where it is still stored. Returns the drifted rows.
    """
    now = current.with_columns(
        pl.Series("current_hash", [vector_hash(row) for row in matrix(current)], dtype=pl.String)
    )
    moved = (
        now.join(published.select("item_id", encoded_hash="vector_hash"), on="item_id")
        .filter(pl.col("current_hash") != pl.col("encoded_hash"))
        .join(encoded.select("item_id", before="vector"), on="item_id", how="left")
        .sort("item_id")
    )
    cosines = [
        float(np.dot(row["vector"], row["before"]) / (np.linalg.norm(row["vector"]) * np.linalg.norm(row["before"])))
        if row["before"] is not None
        else float("nan")
        for row in moved.to_dicts()
    ]
    drifted = moved.select(
        pl.lit(assignment_id).alias("assignment_id"),
        "item_id",
        "encoded_hash",
        "current_hash",
        pl.Series("cosine", cosines, dtype=pl.Float64),
    )
    if drifted.height:
        append(lake, "drift", drifted.select(DRIFT.schema.names).to_arrow(), f"drift:{assignment_id}", provenance)
    return drifted


def encoded_vectors(lake: Lake, fusion: str, published: pl.DataFrame) -> pl.DataFrame:
    """(item_id, vector): the stored fused vectors whose hash is the one a SID of `published` was assigned from."""
    if published.is_empty():
        return pl.DataFrame(schema={"item_id": pl.String, "vector": pl.List(pl.Float32)})
    where = (
        (ds.field("modality") == FUSED)
        & (ds.field("fingerprint") == fusion)
        & one_of("item_id", published["item_id"].to_list())
    )
    stored = lake.frame("vectors", columns=["item_id", "vector"], where=where)
    hashes = pl.Series("vector_hash", [vector_hash(row) for row in matrix(stored)], dtype=pl.String)
    return (
        stored.with_columns(hashes)
        .join(published.select("item_id", "vector_hash"), on=["item_id", "vector_hash"], how="semi")
        .unique("item_id", keep="first", maintain_order=True)
    )
