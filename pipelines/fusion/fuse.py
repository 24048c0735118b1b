"""Gather the vectors of items by modality, and store the fused vector of each item."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.counts import Counts
from pipelines.fusion.frozen import Fusion
from pipelines.modalities import Matrix, Modality
from pipelines.vector_store import matrix, read_vectors, store_vectors
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import Reject, quarantine
from storage.reasons import Reason
from tokenizer.arrays.scratch import scratch_matrix, scratch_take

FUSED = "fused"
CHUNK = 1 << 16
"""Items fused and stored at a time."""


@dataclass(frozen=True)
class Gathered:
    """Items (item_id, sorted; content_hash over the inputs used) and their vectors, aligned by row."""

    items: pl.DataFrame
    modalities: dict[str, Modality]


@dataclass(frozen=True)
class Fused:
    """Items (item_id, sorted; content_hash) and their fused vectors (N, F), aligned by row."""

    items: pl.DataFrame
    vectors: Matrix

    def take(self, rows: NDArray[np.int64]) -> "Fused":
        """Return some of the items, in the given order."""
        return Fused(self.items[rows], scratch_take(self.vectors, rows))


def gather(
    lake: Lake, items: pl.DataFrame, wanted: Mapping[str, pl.DataFrame], fingerprints: Mapping[str, str]
) -> Gathered:
    """Return the stored vectors of items (item_id) by modality; an item without any is there too.

    `wanted` maps a modality to the (item_id, content_hash) pairs whose vectors are read. Vectors under another
    fingerprint are never read.
    """
    ids = items.select("item_id").unique().sort("item_id")
    modalities: dict[str, Modality] = {}
    inputs = ids
    for name, pairs in sorted(wanted.items()):
        if name not in fingerprints:
            continue
        aligned = ids.join(pairs.select("item_id", "content_hash"), on="item_id", how="left", maintain_order="left")
        found = read_vectors(lake, name, fingerprints[name], aligned)
        if found is None:
            continue
        modalities[name] = found
        known = pl.format("{}:{}:{}", pl.lit(name), pl.lit(fingerprints[name]), "content_hash")
        inputs = inputs.with_columns(
            aligned.select(pl.when(pl.Series(found.present)).then(known).alias(name)).to_series()
        )
    digests = [
        hashlib.blake2b("\0".join(filter(None, row[1:])).encode(), digest_size=16).hexdigest()
        for row in inputs.iter_rows()
    ]
    return Gathered(ids.with_columns(pl.Series("content_hash", digests, dtype=pl.String)), modalities)


def placed(ids: pl.DataFrame, vectors: pl.DataFrame) -> Modality:
    """Align vectors (item_id, vector), at least one, with the rows of `ids` (item_id)."""
    rows = ids.select("item_id").with_row_index("row").join(vectors, on="item_id")
    values = np.zeros((ids.height, len(vectors["vector"][0])), dtype=np.float32)
    values[rows["row"].to_numpy()] = matrix(rows)
    present = np.zeros(ids.height, dtype=bool)
    present[rows["row"].to_numpy()] = True
    return Modality(values, present)


def fuse(lake: Lake, fusion: Fusion, gathered: Gathered, provenance: Provenance) -> tuple[Fused, Counts]:
    """Return fused vectors of the gathered items, stored under the fusion's id.

    Stored vectors are read back, never recomputed. An item without any vector is quarantined as `no_vector`.
    """
    counts = Counts("fuse", rows_in=gathered.items.height)
    items = gathered.items
    made = read_vectors(lake, FUSED, fusion.id, items)
    if made is None:
        made = Modality(scratch_matrix(items.height, fusion.spec.dim), np.zeros(items.height, np.bool_))
    missing = np.flatnonzero(~made.present)
    counts.unchanged = items.height - len(missing)
    for start in range(0, len(missing), CHUNK):
        rows = missing[start : start + CHUNK]
        if gathered.modalities:
            inputs = {name: each.take(rows) for name, each in gathered.modalities.items()}
            made.vectors[rows], made.present[rows] = fusion.transform(inputs)
        covered = rows[made.present[rows]]
        refused = items[rows[~made.present[rows]].tolist()]
        rejects = [
            Reject(
                "fuse",
                Reason.NO_VECTOR,
                "no text, image or behaviour to make a vector from",
                f"fuse@{content}",
                0,
                item,
            )
            for item, content in refused.iter_rows()
        ]
        counts.refuse(Reason.NO_VECTOR, len(rejects))
        quarantine(lake, rejects, provenance)
        counts.out += len(covered)
        if len(covered):
            fresh = items[covered.tolist()].with_columns(pl.Series("vector", made.vectors[covered]))
            tagged = fresh.with_columns(modality=pl.lit(FUSED), fingerprint=pl.lit(fusion.id))
            store_vectors(lake, tagged, provenance)
    return Fused(items, made.vectors).take(np.flatnonzero(made.present)), counts.check()
