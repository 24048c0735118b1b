"""Gather the vectors of items modality by modality, and store the fused vector of each."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipelines.embed import matrix, read_vectors, store_vectors
from pipelines.fusion.frozen import Fusion
from pipelines.fusion.modalities import Modality
from pipelines.ingest import Counts
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import Reject, quarantine

FUSED = "fused"


@dataclass(frozen=True)
class Gathered:
    """Items (item_id, sorted; content_hash over the inputs used) and their vectors, aligned row by row."""

    items: pl.DataFrame
    modalities: dict[str, Modality]


def gather(lake: Lake, wanted: Mapping[str, pl.DataFrame], fingerprints: Mapping[str, str]) -> Gathered:
    """The stored vectors of items, modality by modality.

    `wanted` maps a modality to the (item_id, content_hash) pairs whose vectors are wanted; items of any of them
    are gathered. Vectors under another fingerprint are never read.
    """
    found = {
        name: read_vectors(lake, name, fingerprints[name], pairs)
        for name, pairs in sorted(wanted.items())
        if name in fingerprints
    }
    ids = pl.concat([pairs.select("item_id") for pairs in wanted.values()]).unique().sort("item_id")
    modalities: dict[str, Modality] = {}
    inputs = ids
    for name, vectors in found.items():
        if vectors.is_empty():
            continue
        modalities[name] = placed(ids, vectors)
        hashes = vectors.select(
            "item_id", pl.lit(f"{name}:{fingerprints[name]}:").add(pl.col("content_hash")).alias(name)
        )
        inputs = inputs.join(hashes, on="item_id", how="left", maintain_order="left")
    digests = [
        hashlib.blake2b("\0".join(filter(None, row[1:])).encode(), digest_size=16).hexdigest()
        for row in inputs.iter_rows()
    ]
    return Gathered(ids.with_columns(pl.Series("content_hash", digests, dtype=pl.String)), modalities)


def placed(ids: pl.DataFrame, vectors: pl.DataFrame) -> Modality:
    """Vectors (item_id, vector), one at least, row by row beside `ids` (item_id)."""
    rows = ids.select("item_id").with_row_index("row").join(vectors, on="item_id")
    values = np.zeros((ids.height, len(vectors["vector"][0])), dtype=np.float32)
    values[rows["row"].to_numpy()] = matrix(rows)
    present = np.zeros(ids.height, dtype=bool)
    present[rows["row"].to_numpy()] = True
    return Modality(values, present)


def fuse(lake: Lake, fusion: Fusion, gathered: Gathered, provenance: Provenance) -> tuple[pl.DataFrame, Counts]:
    """Fused vectors (item_id, content_hash, vector) of the gathered items, stored under the fusion's id.

    Vectors that are stored already are read back, never computed again. An item without any vector is quarantined
    as `no_vector`.
    """
    counts = Counts("fuse", rows_in=gathered.items.height)
    stored = read_vectors(lake, FUSED, fusion.id, gathered.items)
    missing = ~gathered.items["item_id"].is_in(stored["item_id"].to_list()).to_numpy()
    counts.unchanged = stored.height
    rows = np.flatnonzero(missing)
    if len(rows) == 0:
        return stored, counts.check()
    if not gathered.modalities:
        vectors, covered = np.zeros((len(rows), 1), dtype=np.float32), np.zeros(len(rows), dtype=bool)
    else:
        vectors, covered = fusion.transform({name: each.take(rows) for name, each in gathered.modalities.items()})
    items = gathered.items[rows.tolist()]
    rejects = [
        Reject("fuse", "no_vector", "no text, image or behaviour to make a vector from", f"fuse@{content}", 0, item)
        for item, content in items.filter(pl.Series(~covered)).iter_rows()
    ]
    counts.refuse("no_vector", len(rejects))
    quarantine(lake, rejects, provenance)
    fresh = items.filter(pl.Series(covered)).with_columns(
        pl.Series("vector", vectors[covered].tolist(), dtype=pl.List(pl.Float32))
    )
    counts.out = fresh.height
    if fresh.height:
        tagged = fresh.with_columns(modality=pl.lit(FUSED), fingerprint=pl.lit(fusion.id))
        store_vectors(lake, tagged, provenance)
    return pl.concat([stored, fresh]).sort("item_id"), counts.check()
