"""Check that pictures match titles: compare the two towers of a CLIP model on a sample of items.

A catalogue whose pictures were joined to the wrong items looks valid row by row; here it scores near chance.
"""

from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.embed.protocol import Vectors, load_encoder
from pipelines.spec import ImageSpec
from pipelines.vector_store import read_vectors
from storage.lake import Lake
from tokenizer.arrays.items import tie_keys

# Items of the sample, and the rank up to which an item's own picture counts as found.
SAMPLE, NEAR = 500, 10


def titled_sample(pictured: pl.DataFrame, titles: Callable[[pl.Series], pl.DataFrame]) -> pl.DataFrame:
    """Return a deterministic sample of items (item_id, content_hash) that have a title, with it.

    `titles` returns (item_id, title) of some items.
    """
    ids = pictured["item_id"].to_arrow()
    order, sample, start = np.argsort(tie_keys(ids), kind="stable"), list[pl.DataFrame](), 0
    while start < len(order) and sum(each.height for each in sample) < SAMPLE:
        some = pictured[order[start : 2 * start + 2 * SAMPLE]]  # ever more, in case that few items have a title
        found = some.join(titles(some["item_id"]).select("item_id", "title"), on="item_id", maintain_order="left")
        sample.append(found.filter(pl.col("title").fill_null("").str.strip_chars() != ""))
        start += some.height
    return pl.concat(sample).head(SAMPLE)


def check_clip_agreement(
    lake: Lake, spec: ImageSpec, fingerprint: str, sample: pl.DataFrame
) -> dict[str, float] | None:
    """Return the figures of `agreement` for a sample of (item_id, content_hash, title).

    Return None if fewer than two sampled items have a vector.
    """
    stored = read_vectors(lake, "image", fingerprint, sample)
    if stored is None or stored.present.sum() < 2:
        return None
    titles = sample.filter(pl.Series(stored.present))["title"].to_list()
    return agreement(load_encoder(spec).encode_text(titles), stored.take(np.flatnonzero(stored.present)).vectors)


def agreement(texts_ND: Vectors, pictures_ND: Vectors) -> dict[str, float]:
    """Return the share of texts whose own picture is among the NEAR nearest (ties count half), and that by chance."""
    one, other = _unit(texts_ND), _unit(pictures_ND)
    score = one @ other.T
    own = score.diagonal()[:, None]
    ahead = (score > own).sum(axis=1) + ((score == own).sum(axis=1) - 1) / 2
    return {
        "items": float(len(one)),
        "own_picture_among_nearest": float((ahead < NEAR).mean()),
        "chance": min(1.0, NEAR / len(one)),
        "cosine": float(own.mean()),
    }


def _unit(vectors: Vectors) -> NDArray[np.float32]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
