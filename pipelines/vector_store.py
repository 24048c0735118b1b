"""The table of vectors: stored once by item, content hash, modality and fingerprint, and read aligned with items."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake.transaction import AddAction

from pipelines.modalities import Matrix, ScratchModality
from pipelines.places import PAIR, Places
from storage.commit import Provenance, append, append_files, generation, write_files
from storage.files.among import Among
from storage.hashing.content_hash import row_hashes
from storage.lake import Lake
from storage.schemas import VECTORS
from tokenizer.arrays.vectors import as_matrix

FEW = 10_000
"""Most items that are looked up by id; for more, all vectors of the encoder are scanned."""


def cached(
    lake: Lake, modality: str, fingerprint: str, items: pl.Series | None = None, version: int | None = None
) -> pl.DataFrame:
    """Return (item_id, content_hash) of the stored vectors, of some items and of a version of the table if given."""
    found = lake.frame("vectors", version, PAIR, _where(modality, fingerprint), _few(items))
    if items is None or len(items) <= FEW:
        return found
    return found.join(items.to_frame("item_id"), on="item_id", how="semi", maintain_order="left")


def cached_under(lake: Lake, modality: str, fingerprint: str, hashes: Sequence[str], items: pl.Series) -> pl.DataFrame:
    """Return what `cached` does of vectors under a few content hashes, which memory holds once and not by item."""
    few = pl.Enum(list(dict.fromkeys(hashes)))
    found = [pl.DataFrame(schema={"item_id": pl.String, "content_hash": few})]
    for batch in lake.batches("vectors", PAIR, _where(modality, fingerprint), among=_few(items)):
        rows = pl.DataFrame(pa.table(batch)).filter(pl.col("content_hash").is_in(few.categories.implode()))
        found.append(rows.with_columns(pl.col("content_hash").cast(few)))
    held = pl.concat(found).join(items.to_frame("item_id"), on="item_id", how="semi", maintain_order="left")
    return held.with_columns(pl.col("content_hash").cast(pl.String))


def read_vectors(lake: Lake, modality: str, fingerprint: str, wanted: pl.DataFrame) -> ScratchModality | None:
    """Return the stored vectors aligned with the rows of `wanted` (item_id, content_hash); None if there are none.

    They are filled in batch by batch: memory holds some bytes an item, and the vectors only if they are few.
    """
    places, where = Places(wanted.select(PAIR)), _where(modality, fingerprint)
    found: ScratchModality | None = None
    for batch in lake.batches("vectors", [*PAIR, "vector"], where, among=_few(wanted["item_id"])):
        row, place = places.find(pl.DataFrame(pa.table(batch).select(PAIR)))
        place, first = np.unique(place, return_index=True)
        if not len(place):
            continue
        values = as_matrix(pa.chunked_array([batch.column("vector")]))
        if found is None:
            found = ScratchModality.absent(wanted.height, values.shape[1])
        new = ~found.present[place]
        found.fill(place[new], values[row[first[new]]])
    return found


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
    ordered = rows.with_columns(pl.col("vector").cast(pl.List(pl.Float32))).sort("item_id", "content_hash")
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
