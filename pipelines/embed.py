"""Embed what has no vector yet: pending items through an encoder stage, vectors committed in chunks.

The `vectors` table is the cache: a vector is keyed by content hash and fingerprint, so a rerun encodes nothing, a
killed run goes on after its last chunk, and a new model writes beside the old one.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from pipelines.compute import Compute, Stage
from pipelines.encoders.attributes import MultiHot, Waves
from pipelines.encoders.images import ImageRefused, decode_image
from pipelines.encoders.protocol import encode_all
from pipelines.encoders.text import TextEncoder
from pipelines.encoders.vision import image_encoder
from pipelines.ingest import Counts
from pipelines.spec import AttributesSpec, CoordinatesSpec, ImageSpec, TextSpec
from storage.commit import Provenance, append
from storage.lake import Lake, one_of
from storage.quarantine import Reject, quarantine
from storage.schemas import VECTORS

Outcome = tuple[np.ndarray[Any, Any] | None, str | None, str]


class EmbedText:
    """Stage: texts to vectors."""

    reads = ("text",)
    adds = ("vector", "reason", "detail")
    uses_gpu = True

    def __init__(self, spec: TextSpec) -> None:
        self._encoder = TextEncoder(spec)

    def __call__(self, batch: pa.Table) -> pa.Table:
        texts = batch.column("text").to_pylist()
        filled = [row for row, text in enumerate(texts) if text]
        outcomes: list[Outcome] = [(None, "empty_text", "no text in the fields the recipe names")] * len(texts)
        encoded = encode_all(self._encoder.encode, [texts[row] for row in filled])
        for row, outcome in zip(filled, encoded, strict=True):
            outcomes[row] = outcome
        return _with_outcomes(batch.drop_columns(["text"]), outcomes)


class EmbedAttributes:
    """Stage: contents of structured attributes to vectors."""

    reads = ("content",)
    adds = ("vector", "reason", "detail")

    def __init__(self, spec: AttributesSpec | CoordinatesSpec) -> None:
        self._encoder = MultiHot(spec) if isinstance(spec, AttributesSpec) else Waves(spec)

    def __call__(self, batch: pa.Table) -> pa.Table:
        contents = batch.column("content").to_pylist()
        return _with_outcomes(batch.drop_columns(["content"]), encode_all(self._encoder.encode, contents))


class EmbedImages:
    """Stage: stored images, by hash, to vectors. A bad image costs its own row only."""

    reads = ("content_hash",)
    adds = ("vector", "reason", "detail")
    uses_gpu = True

    def __init__(self, spec: ImageSpec, lake: Lake) -> None:
        self._spec, self._lake = spec, lake
        self._encoder = image_encoder(spec)

    def __call__(self, batch: pa.Table) -> pa.Table:
        images, outcomes = {}, dict[int, Outcome]()
        for row, digest in enumerate(batch.column("content_hash").to_pylist()):
            try:
                data = self._lake.blobs.get(digest)
                images[row] = decode_image(data, self._spec.max_pixels, self._spec.formats)
            except ImageRefused as error:
                outcomes[row] = (None, error.reason, error.detail)
        encoded = encode_all(self._encoder.encode, list(images.values()))
        outcomes.update(zip(images, encoded, strict=True))
        return _with_outcomes(batch, [outcomes[row] for row in range(batch.num_rows)])


def _with_outcomes(batch: pa.Table, outcomes: list[Outcome]) -> pa.Table:
    vectors, reasons, details = zip(*outcomes, strict=True)
    return (
        batch.append_column("vector", pa.array(vectors, type=pa.list_(pa.float32())))
        .append_column("reason", pa.array(reasons, type=pa.string()))
        .append_column("detail", pa.array(details, type=pa.string()))
    )


def cached(lake: Lake, modality: str, fingerprint: str, items: list[str] | None = None) -> pl.DataFrame:
    """(item_id, content_hash) of the vectors that exist."""
    return lake.frame("vectors", columns=["item_id", "content_hash"], where=_where(modality, fingerprint, items))


def read_vectors(lake: Lake, modality: str, fingerprint: str, wanted: pl.DataFrame) -> pl.DataFrame:
    """Vectors (item_id, content_hash, vector) of the wanted (item_id, content_hash) pairs, sorted by item_id."""
    where = _where(modality, fingerprint, wanted["item_id"].to_list())
    stored = lake.frame("vectors", columns=["item_id", "content_hash", "vector"], where=where)
    found = stored.join(wanted.select("item_id", "content_hash"), on=["item_id", "content_hash"], how="semi")
    return found.unique(["item_id", "content_hash"], keep="first", maintain_order=True).sort("item_id")


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
) -> Counts:
    """Encode the items (item_id, content_hash and what the stage reads) that have no vector yet, and store them.

    `unchanged` of the counts are vectors that were there. Refused rows go to quarantine and are tried again when
    their content changes or by `sidmill quarantine retry`.
    """
    counts = Counts(f"embed {modality}", rows_in=items.height)
    known = cached(lake, modality, fingerprint, items["item_id"].to_list())
    pending = items.join(known, on=["item_id", "content_hash"], how="anti").sort("item_id")
    counts.unchanged = items.height - pending.height
    advance(counts.unchanged)
    for done in _chunked(compute.map(make, arguments, pending.to_arrow(), chunk_rows), chunk_rows):
        _store(lake, modality, fingerprint, done, counts, provenance)
        advance(done.num_rows)
    return counts.check()


def _chunked(batches: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Batches joined until they hold `rows` rows: one commit each."""
    waiting: list[pa.Table] = []
    for batch in batches:
        waiting.append(batch)
        if sum(each.num_rows for each in waiting) >= rows:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _store(lake: Lake, modality: str, fingerprint: str, done: pa.Table, counts: Counts, provenance: Provenance) -> None:
    frame = pl.DataFrame(done)
    good, bad = frame.filter(pl.col("reason").is_null()), frame.filter(pl.col("reason").is_not_null())
    counts.out += good.height
    rejects = []
    for row in bad.to_dicts():
        counts.refuse(row["reason"], detail=row["detail"])
        source = f"{modality}@{row['content_hash']}"
        rejects.append(Reject(counts.stage, row["reason"], row["detail"], source, 0, row["item_id"]))
    quarantine(lake, rejects, provenance)
    if good.is_empty():
        return
    rows = good.select("item_id", "content_hash", "vector").with_columns(
        modality=pl.lit(modality), fingerprint=pl.lit(fingerprint)
    )
    store_vectors(lake, rows, provenance)


def store_vectors(lake: Lake, rows: pl.DataFrame, provenance: Provenance) -> None:
    """Append vectors under a key of what they are, so that a rerun writes them once."""
    ordered = rows.sort("item_id", "content_hash")
    name = "\0".join(f"{item}\0{content}" for item, content in ordered.select("item_id", "content_hash").iter_rows())
    first = ordered.row(0, named=True)
    digest = hashlib.sha256(name.encode()).hexdigest()[:24]
    key = f"vectors:{first['modality']}:{first['fingerprint']}:{digest}"
    append(lake, "vectors", ordered.select(VECTORS.schema.names).to_arrow(), key, provenance)


def matrix(vectors: pl.DataFrame) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The `vector` column as an (N, D) float32 array."""
    if vectors.is_empty():
        return np.zeros((0, 0), dtype=np.float32)
    width = vectors["vector"].list.len()[0]
    return vectors["vector"].cast(pl.Array(pl.Float32, width)).to_numpy()
