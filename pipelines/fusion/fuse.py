"""Gather the vectors of items by modality, and store the fused vector of each item."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from learning.threads import one_thread
from pipelines.compute.worker_rows import make_rows
from pipelines.counts import Counts
from pipelines.fusion.frozen import Fusion
from pipelines.modalities import FUSED, Matrix, Modality, StoredModality
from pipelines.places import aligned
from pipelines.vector_store import VectorFiles, matrix, read_vectors
from storage.commit import Provenance
from storage.hashing.content_hash import content_hashes
from storage.hashing.packed import as_text, packed, packed_if_all
from storage.lake import Lake
from storage.quarantine import Reject, quarantine
from storage.reasons import Reason
from tokenizer.arrays.executor import LOCAL_THREADS, Executor, Threads
from tokenizer.arrays.scratch import taken_rows
from tokenizer.arrays.vectors import NOTHING, Items, Rows

CHUNK = 1 << 16
"""Items fused and stored at a time."""
FEW_PARTS = 8
"""Chunks that this thread fuses itself: workers would take longer to import torch than they save."""
STORED = "fused before"
"""Name of the fused vectors that are read back, among the inputs of a part."""


@dataclass(frozen=True)
class Gathered:
    """Items (item_id, sorted; packed content_hash over the inputs used) and their vectors, aligned by row."""

    items: pl.DataFrame
    modalities: dict[str, StoredModality]


@dataclass(frozen=True)
class Fused:
    """Items (item_id, sorted; packed content_hash) and their fused vectors (N, F), aligned by row."""

    items: pl.DataFrame
    vectors: Rows

    def take(self, rows: NDArray[np.int64]) -> "Fused":
        """Return some of the items, ascending; the same object for all of them."""
        return self if len(rows) == self.items.height else Fused(self.items[rows], taken_rows(self.vectors, rows))


def gather(
    lake: Lake,
    items: pl.DataFrame,
    wanted: Mapping[str, pl.DataFrame],
    fingerprints: Mapping[str, str],
    work: Executor = LOCAL_THREADS,
) -> Gathered:
    """Return the stored vectors of items (item_id) by modality; an item without any is there too.

    `wanted` maps a modality to the (item_id, content_hash) pairs whose vectors are read, one an item. Vectors under
    another fingerprint are never read.
    """
    ids = _in_order(items.select("item_id"))
    modalities: dict[str, StoredModality] = {}
    inputs: dict[str, pl.Series] = {}
    for name, pairs in sorted(wanted.items()):
        if name not in fingerprints:
            continue
        asked = ids.with_columns(packed_if_all(aligned(ids["item_id"], _in_order(pairs))))
        found = read_vectors(lake, name, fingerprints[name], asked, work)
        if found is None:
            continue
        modalities[name] = found
        inputs[name] = asked.select(pl.when(pl.Series(found.present)).then("content_hash")).to_series()
    return Gathered(ids.with_columns(_content_hashes(inputs, fingerprints, ids.height)), modalities)


def _in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row an item, by item_id; the same object if they are in order."""
    ids = rows["item_id"]
    return rows if (ids[1:] > ids[:-1]).all() else rows.unique("item_id", keep="any").sort("item_id")


def _content_hashes(inputs: Mapping[str, pl.Series], fingerprints: Mapping[str, str], items: int) -> pl.Series:
    """Return the hash of each item's inputs, named by modality and fingerprint; the names of few items at a time."""
    parts = [pl.Series("content_hash", [], pl.UInt128)]
    for start in range(0, items, CHUNK):
        some = {name: as_text(each[start : start + CHUNK]) for name, each in inputs.items()}
        named = [pl.format("{}:{}:{}", pl.lit(name), pl.lit(fingerprints[name]), name).alias(name) for name in some]
        parts.append(packed(input_hashes(pl.DataFrame(some).select(named), min(CHUNK, items - start))))
    return pl.concat(parts, rechunk=True)


def input_hashes(inputs: pl.DataFrame, items: int) -> pl.Series:
    """Return the content hash of each item's inputs: those that are not null, joined by NUL.

    An item without inputs has a hash as well, also if there is no column.
    """
    if not inputs.width:
        joined = pl.repeat("", items, eager=True)
    else:
        joined = inputs.select(pl.concat_str(pl.all(), separator="\0", ignore_nulls=True)).to_series()
    return content_hashes(joined)


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
    items, count = gathered.items, gathered.items.height
    counts = Counts("fuse", rows_in=count)
    stored = read_vectors(lake, FUSED, fusion.id, items, work)
    present = np.zeros(count, np.bool_) if stored is None else stored.present.copy()
    counts.unchanged = int(present.sum())
    if stored is not None and counts.unchanged == count:
        return Fused(items, stored.rows), counts.check()

    def done(part: _Part) -> None:
        present[part.fused] = True
        _refuse(lake, items[part.refused], counts, provenance)
        counts.out += len(part.fused)
        if part.stored is not None:
            part.stored.commit(lake, provenance)

    rows = _fused_rows(lake, fusion, gathered, stored, work, done)
    return Fused(items, rows).take(np.flatnonzero(present)), counts.check()


@dataclass(frozen=True)
class _Part:
    """Rows of a span that were fused and that have nothing to fuse, and the files that hold the fused vectors."""

    fused: NDArray[np.int64]
    refused: NDArray[np.int64]
    stored: VectorFiles | None


@dataclass(frozen=True)
class _Chunk:
    """Some items, and which of them have a vector of each modality."""

    items: pl.DataFrame
    present: dict[str, NDArray[np.bool_]]


def _fused_rows(
    lake: Lake,
    fusion: Fusion,
    gathered: Gathered,
    stored: StoredModality | None,
    work: Executor,
    done: Callable[[_Part], None],
) -> Rows:
    """Return the fused vectors of all items: those `stored`, and others, which are fused and written by span.

    Torch computes on one thread in a worker, and in the thread that `one_thread` is called in, but not in others.
    """
    items, count = gathered.items, gathered.items.height
    parts = [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    work = work if len(parts) > FEW_PARTS and not isinstance(work, Threads) else Threads(1)
    read = gathered.modalities | ({} if stored is None else {STORED: stored})
    inputs = Items({name: each.rows for name, each in read.items()}, NOTHING.ties)
    tasks = (
        (start, stop, _Chunk(items[start:stop], {name: each.present[start:stop] for name, each in read.items()}))
        for start, stop in parts
    )
    lake.open_or_create("vectors")
    with one_thread():
        return make_rows(work, partial(_fused_part, lake, fusion), inputs, tasks, (count, fusion.spec.dim), done)


def _fused_part(
    lake: Lake, fusion: Fusion, inputs: Items, start: int, stop: int, chunk: _Chunk
) -> tuple[_Part, Matrix]:
    block = np.zeros((stop - start, fusion.spec.dim), np.float32)
    there = chunk.present.get(STORED, np.zeros(stop - start, np.bool_))
    if there.any():
        block[there] = inputs.rows[STORED].read(start, stop)[there]
    missing = np.flatnonzero(~there)
    taken = {
        name: Modality(inputs.rows[name].take(start + missing), present[missing])
        for name, present in chunk.present.items()
        if name != STORED
    }
    if not taken or not len(missing):
        return _Part(missing[:0] + start, missing + start, None), block
    vectors, covered = fusion.transform(taken)
    fused = missing[covered]
    block[fused] = vectors[covered]
    files = None
    if len(fused):
        fresh = chunk.items[fused].with_columns(pl.Series("vector", vectors[covered]))
        files = VectorFiles.write(lake, fresh.with_columns(modality=pl.lit(FUSED), fingerprint=pl.lit(fusion.id)))
    return _Part(start + fused, start + missing[~covered], files), block


def _refuse(lake: Lake, items: pl.DataFrame, counts: Counts, provenance: Provenance) -> None:
    """Quarantine items without any vector."""
    detail = "no text, image or behaviour to make a vector from"
    rejects = [
        Reject("fuse", Reason.NO_VECTOR, detail, f"fuse@{content}", 0, item)
        for item, content in items.with_columns(as_text(items["content_hash"])).iter_rows()
    ]
    counts.refuse(Reason.NO_VECTOR, len(rejects))
    quarantine(lake, rejects, provenance)
