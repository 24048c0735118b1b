"""What SIDs are worth: use of codes, collisions, what decoding loses, and whether neighbours share codes."""

from collections.abc import Mapping

import faiss
import numpy as np
from numpy.typing import NDArray

from tokenizer.codebook import Codebook
from tokenizer.distance import Floats
from tokenizer.load import level_metrics
from tokenizer.quantizer import quantizer_of
from tokenizer.sid_keys import sid_keys

__all__ = ["collision_metrics", "decode", "level_metrics", "prefix_agreement", "relative_error"]


def collision_metrics(codes_NL: NDArray[np.int32]) -> dict[str, float]:
    """Sharing of SIDs. collision_rate: share of items whose SID another item has too; unique_sids and
    largest_group are counts."""
    if not len(codes_NL):
        return {"collision_rate": 0.0, "unique_sids": 0, "largest_group": 0}
    sizes = [int(size) for size in codes_NL.max(axis=0) + 1]
    _, group = np.unique(sid_keys(codes_NL, sizes), return_counts=True)
    shared = int(group[group > 1].sum())
    return {
        "collision_rate": shared / len(codes_NL),
        "unique_sids": len(group),
        "largest_group": int(group.max()),
    }


def decode(codebook: Codebook, codes_NL: NDArray[np.int32], source: str) -> Floats:
    """The vectors of `source` that SIDs stand for, float32 (N, D)."""
    return quantizer_of(codebook.spec).decode(codebook, codes_NL, source)


def relative_error(codebook: Codebook, vectors: Mapping[str, Floats], codes_NL: NDArray[np.int32]) -> float:
    """sum |x - decoded|^2 / sum |x - mean|^2 over all sources; 0 is lossless, 1 no better than the mean.

    The mean is that of the fit, so that a night of one item has an error too. 0 for no items.
    """
    error = spread = 0.0
    for source in codebook.sources:
        vector = np.asarray(vectors[source], np.float64)
        error += float(np.square(vector - decode(codebook, codes_NL, source)).sum())
        spread += float(np.square(vector - codebook.arrays[f"mean.{source}"]).sum())
    return error / spread if spread > 0 else float(error > 0)


def prefix_agreement(vectors_ND: Floats, codes_NL: NDArray[np.int32], k: int, sample: int, seed: int) -> list[float]:
    """The share of an item's `k` nearest neighbours that have its first code, and that have its first two
    codes.

    Over `sample` items drawn with `seed`, against exact neighbours (squared distance) among all items. One
    level gives one share. 0 where an item has no neighbours.
    """
    items, depth = len(vectors_ND), min(2, codes_NL.shape[1])
    k = min(k, items - 1)
    if k < 1:
        return [0.0] * depth
    chosen = np.sort(np.random.default_rng(seed).choice(items, min(sample, items), replace=False))
    vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
    _, found = faiss.knn(vectors_ND[chosen], vectors_ND, k + 1)
    other = found != chosen[:, None]
    # An item may be missing among its own neighbours when others have the same vector: then the last one
    # goes.
    other[other.all(axis=1), -1] = False
    neighbour_Sk = found[other].reshape(len(chosen), k)
    same_SkL = codes_NL[neighbour_Sk] == codes_NL[chosen][:, None]
    return [float(same_SkL[:, :, : level + 1].all(axis=2).mean()) for level in range(depth)]
