"""Gather the vectors of items by modality, and store the fused vector of each item."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learning.threads import one_thread
from pipelines.counts import Counts
from pipelines.fusion.frozen import Fusion
from pipelines.modalities import Matrix, Modality
from pipelines.vector_store import matrix, read_vectors, store_vectors
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import Reject, quarantine
from storage.reasons import Reason
from tokenizer.arrays.executor import LOCAL_THREADS, Executor, Threads
from tokenizer.arrays.scratch import scratch_matrix, scratch_take
from tokenizer.arrays.vectors import NOTHING, Items

FUSED = "fused"
CHUNK = 1 << 16
"""Items fused and stored at a time."""
FEW_PARTS = 8
"""Chunks that this thread fuses itself: workers would take longer to import torch than they save."""


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
    digests = pl.Series("content_hash", input_hashes(inputs.drop("item_id"), ids.height), dtype=pl.String)
    return Gathered(ids.with_columns(digests), modalities)


def input_hashes(inputs: pl.DataFrame, items: int) -> list[str]:
    """Return the hash of each item's inputs: 16 bytes of BLAKE2b over those that are not null, joined by NUL.

    An item without inputs has a hash as well, also if there is no column.
    """
    if not inputs.width:
        joined = pl.repeat("", items, eager=True)
    else:
        joined = inputs.select(pl.concat_str(pl.all(), separator="\0", ignore_nulls=True)).to_series()
    return [hashlib.blake2b(name.encode(), digest_size=16).hexdigest() for name in joined]


def placed(ids: pl.DataFrame, vectors: pl.DataFrame) -> Modality:
    """Align vectors (item_id, vector), at least one, with the rows of `ids` (item_id)."""
    rows = ids.select("item_id").with_row_index("row").join(vectors, on="item_id")
    values = np.zeros((ids.height, len(vectors["vector"][0])), dtype=np.float32)
    values[rows["row"].to_numpy()] = matrix(rows)
    present = np.zeros(ids.height, dtype=bool)
    present[rows["row"].to_numpy()] = True
    return Modality(values, present)


def fuse(
    lake: Lake, fusion: Fusion, gathered: Gathered, provenance: Provenance, work: Executor = LOCAL_THREADS
) -> tuple[Fused, Counts]:
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
    parts = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
    for rows, (vectors, covered) in zip(parts, _transformed(fusion, gathered, parts, work), strict=True):
        made.vectors[rows], made.present[rows] = vectors, covered
        _refuse(lake, items[rows[~covered]], counts, provenance)
        counts.out += int(covered.sum())
        if covered.any():
            fresh = items[rows[covered]].with_columns(pl.Series("vector", vectors[covered]))
            tagged = fresh.with_columns(modality=pl.lit(FUSED), fingerprint=pl.lit(fusion.id))
            store_vectors(lake, tagged, provenance)
    return Fused(items, made.vectors).take(np.flatnonzero(made.present)), counts.check()


def _transformed(
    fusion: Fusion, gathered: Gathered, parts: Sequence[NDArray[np.int64]], work: Executor
) -> Iterator[tuple[Matrix, NDArray[np.bool_]]]:
    """Yield the fused vectors of parts of the rows. A task takes its vectors along, so few parts are held at a time.

    Torch computes on one thread in a worker, and in the thread that `one_thread` is called in, but not in others.
    """
    if not gathered.modalities:
        yield from (
            (np.zeros((len(rows), fusion.spec.dim), np.float32), np.zeros(len(rows), np.bool_)) for rows in parts
        )
        return
    work = work if len(parts) > FEW_PARTS and not isinstance(work, Threads) else Threads(1)
    tasks = (({name: each.take(rows) for name, each in gathered.modalities.items()},) for rows in parts)
    with one_thread():
        yield from work.map(partial(_fused_part, fusion), NOTHING, tasks)


def _fused_part(fusion: Fusion, items: Items, inputs: Mapping[str, Modality]) -> tuple[Matrix, NDArray[np.bool_]]:
    return fusion.transform(inputs)


def _refuse(lake: Lake, items: pl.DataFrame, counts: Counts, provenance: Provenance) -> None:
    """Quarantine items without any vector."""
    detail = "no text, image or behaviour to make a vector from"
    rejects = [
        Reject("fuse", Reason.NO_VECTOR, detail, f"fuse@{content}", 0, item) for item, content in items.iter_rows()
    ]
    counts.refuse(Reason.NO_VECTOR, len(rejects))
    quarantine(lake, rejects, provenance)
