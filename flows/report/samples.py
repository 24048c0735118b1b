"""Views of the vectors of a release: a map of the catalogue, and items beside their nearest neighbours."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow.dataset as ds
from numpy.typing import NDArray
from PIL import Image

from learning.threads import one_thread
from pipelines.embed.images import ImageRefused, decode_image
from pipelines.modalities import FUSED
from pipelines.spec import ImageSpec
from pipelines.vector_store import matrix
from storage.files.among import one_of
from storage.lake import Lake
from storage.releases.catalogue import catalogue
from storage.releases.manifest import Manifest
from tokenizer.arrays.items import tie_keys
from tokenizer.trie.trie import Trie

# Items of the sample, strips, and neighbours in a strip.
SAMPLE, STRIPS, NEAREST = 1_500, 6, 6
# Longer side of a thumbnail, in pixels.
THUMBNAIL = 96
# Perplexity of t-SNE; lower for a small sample.
PERPLEXITY = 30.0


@dataclass(frozen=True)
class MapPoint:
    """An item on the map: its place in a square of side 100, and its colour: hue in degrees, light in per cent."""

    x: str
    y: str
    hue: int
    light: int
    title: str


@dataclass(frozen=True)
class StripItem:
    """An item of a strip, beside the first one: codes that both SIDs begin with, and cosine of both vectors.

    `image` is a small JPEG as a data URI.
    """

    item: str
    title: str | None
    sid: str
    shared: int
    cosine: float
    image: str | None


@dataclass(frozen=True)
class SampleViews:
    """Number of items of a sample, points of the map, and strips of an item and its nearest items."""

    sampled: int
    points: list[MapPoint]
    strips: list[list[StripItem]]


def sample_views(lake: Lake, manifest: Manifest, trie: Trie) -> SampleViews:
    """Return the views of a deterministic sample of items."""
    ids = trie.item_ids.to_pylist()
    rows = np.argsort(tie_keys(trie.item_ids), kind="stable")[:SAMPLE]
    place = {ids[row]: row for row in rows.tolist()}
    where = (
        (ds.field("modality") == FUSED)
        & (ds.field("fingerprint") == manifest.fusion.fingerprint)
        & one_of("item_id", sorted(place))
    )
    stored = lake.frame("vectors", manifest.versions["vectors"], ["item_id", "vector"], where)
    stored = stored.unique("item_id", keep="first", maintain_order=True).sort("item_id")
    known = np.array([place[item] for item in stored["item_id"]], np.int64)
    vectors, codes = matrix(stored), trie.codes()[known]
    return SampleViews(
        sampled=stored.height,
        points=_map(vectors, codes, stored["item_id"].to_list()),
        strips=_strips(lake, manifest, stored, vectors, codes),
    )


def _map(vectors: NDArray[np.float32], codes: NDArray[np.int32], ids: list[str]) -> list[MapPoint]:
    """Return places in a square of side 100, coloured by first code: t-SNE (van der Maaten and Hinton 2008)."""
    if len(vectors) < 5:
        return []
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    with one_thread():  # on a machine with other work, several threads take ten times as long
        flat = TSNE(2, perplexity=perplexity, init="pca", metric="cosine", random_state=0).fit_transform(vectors)
    low, high = flat.min(axis=0), flat.max(axis=0)
    flat = 2 + 96 * (flat - low) / np.where(high > low, high - low, 1)
    return [
        MapPoint(
            x=f"{x:.1f}",
            y=f"{y:.1f}",
            # Code numbers have no order: steps of the golden angle give consecutive numbers distinct hues.
            hue=int(code[0] * 137.508) % 360,
            light=(38, 52, 66)[int(code[0]) % 3],
            title=f"{item}: {' '.join(map(str, code))}",
        )
        for (x, y), code, item in zip(flat.tolist(), codes.tolist(), ids, strict=True)
    ]


def _strips(
    lake: Lake, manifest: Manifest, stored: pl.DataFrame, vectors: NDArray[np.float32], codes: NDArray[np.int32]
) -> list[list[StripItem]]:
    """Return the first items of the sample by tie key, each with its nearest items in the sample."""
    ids = stored["item_id"].to_list()
    chosen = np.argsort(tie_keys(ids), kind="stable")[:STRIPS]
    score = vectors[chosen] @ vectors.T
    strips = [np.argsort(-row, kind="stable")[: NEAREST + 1].tolist() for row in score]
    shown = sorted({ids[row] for strip in strips for row in strip})
    found = catalogue(lake, manifest.versions["items"], manifest.as_of, ["title", "images"], shown)
    about = {row["item_id"]: row for row in found.to_dicts()}
    thumbnails = {item: _thumbnail(lake, row["images"][0] if row["images"] else None) for item, row in about.items()}
    return [
        [
            StripItem(
                item=ids[row],
                title=about[ids[row]]["title"],
                sid=" ".join(map(str, codes[row])),
                shared=_shared(codes[strip[0]], codes[row]),
                cosine=float(score[at, row]),
                image=thumbnails[ids[row]],
            )
            for row in strip
        ]
        for at, strip in enumerate(strips)
    ]


def _shared(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Return the length of the common prefix of two SIDs."""
    return int(np.cumprod(one == other).sum())


def _thumbnail(lake: Lake, digest: str | None) -> str | None:
    """Return a small JPEG as a data URI; None without a picture that can be decoded."""
    if digest is None:
        return None
    spec = ImageSpec()
    try:
        image = decode_image(lake.blobs.get(digest), spec.max_pixels, spec.formats)
    except ImageRefused:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
