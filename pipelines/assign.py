"""Assign SIDs to items. Published SIDs stay; a new item gets a free SID within the capacity of its codes."""

import hashlib
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from pipelines.counts import Counts
from pipelines.fusion.fuse import FUSED, Fused
from pipelines.vector_store import matrix
from storage.commit import Provenance, append
from storage.lake import Lake, one_of
from storage.quarantine import Reject, quarantine
from storage.reasons import Reason
from storage.schemas import DRIFT, SIDS
from tokenizer.assign import Assignment, Occupancy, Status
from tokenizer.codebook import Codebook


def vector_hash(vector: np.ndarray[Any, Any]) -> str:
    """Return the hash of the vector that a SID was assigned from."""
    return hashlib.blake2b(np.ascontiguousarray(vector, dtype="<f4").tobytes(), digest_size=16).hexdigest()


def occupancy(lake: Lake, codebook: Codebook, assignments: list[str]) -> Occupancy:
    """Return all SIDs of the assignments, also those of deleted and rolled-back items. None is ever reused."""
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
    fused: Fused,
    assignment: Assignment,
    counts: Counts,
    provenance: Provenance,
) -> Counts:
    """Append one segment of the SID table. Items without a free SID are quarantined as `refit_due`.

    `fused` and `assignment` are aligned by row. `counts` are the counts of the stage so far; they are updated and
    returned.
    """
    codes, status = assignment.codes, [Status(value).label for value in assignment.status]
    placed = codes[:, 0] >= 0
    rejects = [
        Reject(
            "assign",
            Reason.REFIT_DUE,
            f"codebook {codebook.id} has no free SID near this item",
            f"assign@{content}",
            0,
            item,
        )
        for item, content in fused.items.filter(pl.Series(~placed)).iter_rows()
    ]
    counts.refuse(Reason.REFIT_DUE, len(rejects))
    quarantine(lake, rejects, provenance)
    counts.out = int(placed.sum())
    rows = pa.table(
        {
            "assignment_id": pa.array([assignment_id] * counts.out, pa.string()),
            "codebook": pa.array([codebook.id] * counts.out, pa.string()),
            "item_id": fused.items["item_id"].filter(pl.Series(placed)).to_arrow().cast(pa.string()),
            "codes": pa.array(codes[placed].tolist(), pa.list_(pa.int32())),
            "vector_hash": pa.array([vector_hash(fused.vectors[row]) for row in np.flatnonzero(placed)], pa.string()),
            "status": pa.array([name for name, good in zip(status, placed, strict=True) if good], pa.string()),
        },
        schema=SIDS.schema,
    )
    append(lake, "sids", rows, f"sids:{assignment_id}", provenance)
    return counts.check()


def record_drift(
    lake: Lake, assignment_id: str, published: pl.DataFrame, current: Fused, fusion: str, provenance: Provenance
) -> pl.DataFrame:
    """Record the items whose vector differs from the one their SID encodes; the SID does not change.

    `published` is (item_id, vector_hash) of the SID table. The encoded vectors are looked up among those stored under
    `fusion`. Return the drifted rows.
    """
    encoded = published.select("item_id", encoded_hash="vector_hash")
    known = current.items.select("item_id").with_row_index("row").join(encoded, on="item_id")
    hashes = [vector_hash(current.vectors[row]) for row in known["row"]]
    now = known.with_columns(pl.Series("current_hash", hashes, dtype=pl.String))
    moved = now.filter(pl.col("current_hash") != pl.col("encoded_hash")).sort("item_id")
    stored = encoded_vectors(lake, fusion, moved.select("item_id", vector_hash="encoded_hash"))
    before = dict(zip(stored["item_id"], matrix(stored), strict=True))
    cosines = [
        _cosine(current.vectors[row], before[item]) if item in before else float("nan")
        for row, item in moved.select("row", "item_id").iter_rows()
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


def _cosine(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.dot(one, other)) / lengths if lengths else 0.0


def encoded_vectors(lake: Lake, fusion: str, published: pl.DataFrame) -> pl.DataFrame:
    """Return (item_id, vector) of the stored fused vectors that the SIDs of `published` were assigned from."""
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
