"""The SID table: which SIDs are taken, the segment that a run appends, and items that changed since they got theirs.

`tokenizer.assign` decides which SID an item gets.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake.transaction import AddAction
from numpy.typing import NDArray

from pipelines.counts import Counts
from pipelines.fusion.fuse import Fused
from pipelines.modalities import FUSED
from pipelines.vector_store import matrix, vector_hashes
from storage.commit import Provenance, append, append_files, write_files
from storage.files.among import Among
from storage.hashing.packed import as_text
from storage.lake import Lake
from storage.quarantine import Reject, quarantine
from storage.reasons import Reason
from storage.releases.catalogue import count_sids, deleted_items, in_segments, items_among, nameless
from storage.releases.manifest import Manifest
from storage.schemas import DRIFT, SIDS
from tokenizer.arrays.executor import LOCAL_THREADS, Executor
from tokenizer.arrays.sid_keys import sid_keys, sort_sids
from tokenizer.arrays.types import Codes
from tokenizer.arrays.vectors import NOTHING, Items, Rows, spans
from tokenizer.assign import Assignment, Occupancy, Status
from tokenizer.codebook import Codebook
from tokenizer.trie.trie import Trie

FILE_ROWS = 1 << 20
"""Rows of a file of a segment."""


def occupancy(
    lake: Lake, codebook: Codebook, assignments: list[str], parent: Manifest | None = None, trie: Trie | None = None
) -> Occupancy:
    """Return all SIDs of the assignments, also those of deleted, erased and rolled-back items. None is ever reused.

    The `trie` of a `parent` under this codebook has the SIDs of the parent's segments in order, without those of
    deleted and erased items. With it, only these items and later segments are read from the table.
    """
    if parent is None or trie is None or parent.codebook.id != codebook.id:
        return Occupancy(_codes(lake, codebook, assignments))
    others = _codes(lake, codebook, [each for each in assignments if each not in parent.assignments])
    lacking = count_sids(lake, codebook.id, parent.assignments) - len(trie)
    if lacking:
        items = deleted_items(lake, parent.versions["items"], parent.as_of)
        deleted = _codes(lake, codebook, parent.assignments, items)
        erased = _codes(lake, codebook, parent.assignments, only=nameless())
        if len(deleted) + len(erased) != lacking:  # they do not explain all that the trie lacks
            return Occupancy(_codes(lake, codebook, assignments))
        others = np.concatenate([deleted, erased, others])
    keys, order = sort_sids(others, codebook.sizes)
    codes = trie.codes()
    places = np.searchsorted(sid_keys(codes, codebook.sizes), keys)
    return Occupancy(np.insert(codes, places, others[order], axis=0))


def _codes(
    lake: Lake,
    codebook: Codebook,
    assignments: Iterable[str],
    among: Iterable[str] | None = None,
    only: ds.Expression | None = None,
) -> Codes:
    """Return the codes (N, L) in some segments, of all items or some; with `only`, of the rows that pass a filter."""
    where = in_segments(codebook.id, assignments)
    where = where if only is None else where & only
    rows = lake.read("sids", columns=["codes"], where=where, among=items_among(among))
    flat = np.concatenate([np.zeros(0, np.int32), *(np.asarray(part.flatten()) for part in rows["codes"].chunks)])
    return flat.astype(np.int32, copy=False).reshape(rows.num_rows, len(codebook.sizes))


def codes_of(sids: pl.DataFrame, codebook: Codebook) -> Codes:
    """Return the column `codes` of SIDs as int32 (N, L)."""
    return sids["codes"].explode().to_numpy().astype(np.int32).reshape(sids.height, len(codebook.sizes))


@dataclass(frozen=True)
class Segment:
    """A segment of the SID table: items with their fused vectors, and their SIDs, aligned by row.

    An item without a free SID (codes -1) is in it too, and is not written.
    """

    id: str
    codebook: Codebook
    fused: Fused
    assignment: Assignment


def write_segment(
    lake: Lake, segment: Segment, counts: Counts, provenance: Provenance, work: Executor = LOCAL_THREADS
) -> Counts:
    """Append one segment of the SID table. Items without a free SID are quarantined as `refit_due`.

    `counts` are the counts of the stage so far; they are updated and returned. Workers hash the vectors.
    """
    placed = segment.assignment.codes[:, 0] >= 0
    detail = f"codebook {segment.codebook.id} has no free SID near this item"
    refused = segment.fused.items.filter(pl.Series(~placed))
    rejects = [
        Reject("assign", Reason.REFIT_DUE, detail, source=f"assign@{content}", source_row=0, subject=item)
        for item, content in refused.with_columns(as_text(refused["content_hash"])).iter_rows()
    ]
    counts.refuse(Reason.REFIT_DUE, len(rejects))
    quarantine(lake, rejects, provenance)
    counts.out = int(placed.sum())
    key = f"sids:{segment.id}"

    def write() -> list[AddAction]:
        rows = np.flatnonzero(placed)
        parts = (rows[start : start + FILE_ROWS] for start in range(0, len(rows), FILE_ROWS))
        tables = (_segment_rows(segment, part, work) for part in parts)
        return [file for table in tables for file in write_files(lake, "sids", table, key)]

    append_files(lake, "sids", write, key, provenance)
    return counts.check()


def _segment_rows(segment: Segment, rows: NDArray[np.int64], work: Executor) -> pa.Table:
    fused, assignment = segment.fused, segment.assignment
    return pa.table(
        {
            "assignment_id": pa.repeat(segment.id, len(rows)),
            "codebook": pa.repeat(segment.codebook.id, len(rows)),
            "item_id": fused.items["item_id"][rows].to_arrow().cast(pa.string()),
            "codes": _lists(assignment.codes[rows]),
            "vector_hash": _hashes(fused.vectors, rows, work),
            "status": pa.array([each.label for each in Status], pa.string()).take(pa.array(assignment.status[rows])),
        },
        schema=SIDS.schema,
    )


def _lists(codes: Codes) -> pa.ListArray:
    """Return the rows of a matrix as lists."""
    ends = np.arange(0, codes.size + 1, codes.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.ascontiguousarray(codes, np.int32).ravel()))


def _hashes(vectors: Rows, rows: NDArray[np.int64], work: Executor = LOCAL_THREADS) -> pa.ChunkedArray:
    """Return the hashes of some rows, ascending; they are read where they are hashed, some at a time."""
    tasks = ((rows[start:stop],) for start, stop in spans(len(rows)))
    return pa.chunked_array(work.map(_hashes_of, Items({FUSED: vectors}, NOTHING.ties), tasks), pa.string())


def _hashes_of(vectors: Items, rows: NDArray[np.int64]) -> pa.Array:
    return vector_hashes(vectors.rows[FUSED].take(rows)).to_arrow().cast(pa.string())


def record_drift(
    lake: Lake, assignment_id: str, published: pl.DataFrame, current: Fused, fusion: str, provenance: Provenance
) -> pl.DataFrame:
    """Record the items whose vector differs from the one their SID encodes; the SID does not change.

    `published` is (item_id, vector_hash) of the SID table. The encoded vectors are looked up among those stored under
    `fusion`. Return the drifted rows.
    """
    encoded = published.select("item_id", encoded_hash="vector_hash")
    known = current.items.select("item_id").with_row_index("row").join(encoded, on="item_id", maintain_order="left")
    hashes = _hashes(current.vectors, known["row"].to_numpy().astype(np.int64))
    now = known.with_columns(pl.Series("current_hash", hashes))
    moved = now.filter(pl.col("current_hash") != pl.col("encoded_hash")).sort("item_id")
    stored = encoded_vectors(lake, fusion, moved.select("item_id", vector_hash="encoded_hash"))
    before = dict(zip(stored["item_id"], matrix(stored), strict=True))
    cosines = [
        _cosine(current.vectors.read(row, row + 1)[0], before[item]) if item in before else float("nan")
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
    where = (ds.field("modality") == FUSED) & (ds.field("fingerprint") == fusion)
    among = Among("item_id", published["item_id"])
    stored = lake.frame("vectors", columns=["item_id", "vector"], where=where, among=among)
    hashes = vector_hashes(matrix(stored)).alias("vector_hash")
    return (
        stored.with_columns(hashes)
        .join(published.select("item_id", "vector_hash"), on=["item_id", "vector_hash"], how="semi")
        .unique("item_id", keep="first", maintain_order=True)
    )
