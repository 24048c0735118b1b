"""The table of vectors: stored once by item, content hash, modality and fingerprint, and read aligned with items."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake.transaction import AddAction
from numpy.typing import NDArray

from pipelines.compute.executors import RayWork
from pipelines.compute.worker_rows import PlacedRows, collect_rows, is_elsewhere
from pipelines.modalities import Matrix, ScratchModality, StoredModality
from pipelines.places import PAIR, Places
from storage.commit import Provenance, append, append_files, generation, write_files
from storage.files.among import Among
from storage.files.data_files import DataFile
from storage.hashing.content_hash import row_hashes
from storage.hashing.packed import as_text
from storage.lake import Lake
from storage.schemas import VECTORS
from tokenizer.arrays.executor import LOCAL_THREADS, Executor
from tokenizer.arrays.id_rows import IdRows
from tokenizer.arrays.vectors import as_matrix

STORED = [*PAIR, "vector"]
FEW = 10_000
"""Most items that are looked up by id; for more, all vectors of the encoder are scanned."""
PART_BYTES = 1 << 28
"""Bytes of the files that a worker reads at a time."""


def cached(
    lake: Lake, modality: str, fingerprint: str, items: pl.Series | None = None, version: int | None = None
) -> pl.DataFrame:
    """Return (item_id, content_hash) of the stored vectors, of some items and of a version of the table if given."""
    found = lake.frame("vectors", version, PAIR, _where(modality, fingerprint), _few(items))
    if items is None or len(items) <= FEW:
        return found
    return found.join(items.to_frame("item_id"), on="item_id", how="semi", maintain_order="left")


def stored_among(
    lake: Lake, modality: str, fingerprint: str, wanted: pl.DataFrame, version: int | None = None
) -> NDArray[np.bool_]:
    """Return which of the rows of `wanted` (PAIR) have a stored vector. The table is read batch by batch."""
    found, places = np.zeros(wanted.height, np.bool_), None
    among = _few(wanted["item_id"])
    for batch in lake.batches("vectors", PAIR, _where(modality, fingerprint), version=version, among=among):
        places = places or Places.of(wanted)
        found[places.find(pl.DataFrame(pa.table(batch)))[1]] = True
    return found


def stored_under(lake: Lake, modality: str, fingerprint: str, hashes: Sequence[str], items: pl.Series) -> pl.Series:
    """Return the content hash under which each item has a vector, of the few `hashes`: an Enum, null for none.

    Of several, it is any of them.
    """
    few = pl.Enum(list(dict.fromkeys(hashes)))
    rows, code = IdRows(items.to_arrow().cast(pa.large_string())), np.full(len(items), -1, np.int32)
    for batch in lake.batches("vectors", PAIR, _where(modality, fingerprint), among=_few(items)):
        some = pl.DataFrame(pa.table(batch))
        contents = some["content_hash"].cast(few, strict=False)
        some, contents = some.filter(contents.is_not_null()), contents.drop_nulls()
        place = rows.find(some["item_id"].to_arrow().cast(pa.large_string()))
        code[place[place >= 0]] = contents.to_physical().to_numpy()[place >= 0]
    found = pl.Series(code).set(pl.Series(code < 0), None)
    return few.categories.gather(found).cast(few).alias("content_hash")


def read_vectors(
    lake: Lake, modality: str, fingerprint: str, wanted: pl.DataFrame, work: Executor = LOCAL_THREADS
) -> StoredModality | None:
    """Return the stored vectors aligned with the rows of `wanted` (item_id, content_hash); None if there are none.

    They are filled in batch by batch: memory holds some bytes an item, and the vectors only if they are few. Workers on
    other machines read their share of the files.
    """
    where, few = _where(modality, fingerprint), _few(wanted["item_id"])
    if few is None and is_elsewhere(work):
        return _read_elsewhere(lake, where, wanted, work)
    if not lake.files_within("vectors", where):
        return None
    found: ScratchModality | None = None
    for place, vectors in _placed(Places.of(wanted), lake.batches("vectors", STORED, where, among=few)):
        if found is None:
            found = ScratchModality.absent(wanted.height, vectors.shape[1])
        new = ~found.present[place]
        found.fill(place[new], vectors[new])
    return found


def _read_elsewhere(lake: Lake, where: ds.Expression, wanted: pl.DataFrame, work: RayWork) -> StoredModality | None:
    files = lake.files_within("vectors", where)
    first = next(lake.file_batches("vectors", files, ["vector"], where, rows=1), None)
    if first is None:
        return None
    parts = [(lake, where, part) for part in _of_size(files, PART_BYTES)]
    width = as_matrix(pa.chunked_array([first.column(0)])).shape[1]
    rows, present = collect_rows(work, partial(_found, Places.of(wanted)), parts, (wanted.height, width))
    return StoredModality(rows, present) if present.any() else None


def _found(places: Places, lake: Lake, where: ds.Expression, files: list[DataFile]) -> Iterator[PlacedRows]:
    return _placed(places, lake.file_batches("vectors", files, STORED, where))


def _placed(places: Places, batches: Iterator[pa.RecordBatch]) -> Iterator[PlacedRows]:
    """Yield the places of the vectors of each batch that has any, ascending, and these vectors."""
    for batch in batches:
        row, place = places.find(pl.DataFrame(pa.table(batch).select(PAIR)))
        place, first = np.unique(place, return_index=True)
        if len(place):
            yield place, as_matrix(pa.chunked_array([batch.column(2)]))[row[first]]


def _of_size(files: Iterable[DataFile], size: int) -> Iterator[list[DataFile]]:
    """Yield files in order, in parts of about `size` bytes."""
    part: list[DataFile] = []
    for file in files:
        part.append(file)
        if sum(each.size for each in part) >= size:
            yield part
            part = []
    if part:
        yield part


def _where(modality: str, fingerprint: str) -> ds.Expression:
    return (ds.field("modality") == modality) & (ds.field("fingerprint") == fingerprint)


def _few(items: pl.Series | None) -> Among | None:
    """Return a filter by id if the items are few."""
    return None if items is None or len(items) > FEW else Among("item_id", items)


def store_vectors(lake: Lake, rows: pl.DataFrame, provenance: Provenance) -> None:
    """Append vectors under a key of their identity, so that a rerun writes them once."""
    table, key = _keyed(lake, rows)
    append(lake, "vectors", table, key, provenance)


@dataclass(frozen=True)
class VectorFiles:
    """Files of vectors, written by any process, and the key of their commit."""

    key: str
    files: list[AddAction]

    @classmethod
    def write(cls, lake: Lake, rows: pl.DataFrame) -> "VectorFiles":
        """Write vectors as `store_vectors` does, for another process to commit."""
        table, key = _keyed(lake, rows)
        return cls(key, write_files(lake, "vectors", table, key))

    def commit(self, lake: Lake, provenance: Provenance) -> None:
        """Append the files, once."""
        append_files(lake, "vectors", lambda: self.files, self.key, provenance)


def _keyed(lake: Lake, rows: pl.DataFrame) -> tuple[pa.Table, str]:
    """Return rows in order, and their key: another one after `lake gc` took the vectors of their fingerprint out."""
    texts = rows.with_columns(pl.col("vector").cast(pl.List(pl.Float32)), as_text(rows["content_hash"]))
    ordered = texts.sort("item_id", "content_hash")
    pairs = pl.concat_str("item_id", "content_hash", separator="\0")
    name = ordered.select(pairs.str.join("\0", ignore_nulls=False)).item()
    digest = hashlib.sha256(name.encode()).hexdigest()[:24]
    partition = (ordered["modality"][0], ordered["fingerprint"][0])
    again = generation(lake, "vectors", partition)
    key = ":".join(["vectors", *partition, digest, *([str(again)] if again else [])])
    return ordered.select(VECTORS.schema.names).to_arrow(), key


def vector_hashes(vectors: Matrix) -> pl.Series:
    """Return the content hash of each row, over its float32 values, low byte first."""
    rows = np.ascontiguousarray(vectors, dtype="<f4").reshape(-1).view(np.uint8).data
    return row_hashes(rows, 4 * vectors.shape[1])


def matrix(vectors: pl.DataFrame) -> Matrix:
    """Return the `vector` column as an (N, D) float32 array."""
    if vectors.is_empty():
        return np.zeros((0, 0), dtype=np.float32)
    return as_matrix(pa.chunked_array([vectors["vector"].to_arrow()]))
