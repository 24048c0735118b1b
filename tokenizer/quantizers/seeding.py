"""Initial centroids of k-means, spread over the data."""

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.types import Floats

ROUNDS = 256
"""Rounds of drawing to aim for; with more codes, a round draws several."""
SEED_ROWS = 4096
SEED_ROWS_PER_CODE = 16
"""Centroids are drawn from the larger of SEED_ROWS and this number for each code: more rows find rarer groups of items,
and drawing costs time in rows times codes."""


def sample_size(codes: int) -> int:
    """Return the number of vectors to draw centroids from."""
    return max(SEED_ROWS, SEED_ROWS_PER_CODE * codes)


def spread_centroids(vectors_ND: Floats, codes: int, rng: np.random.Generator) -> Floats:
    """Draw `codes` of the vectors by squared distance from those drawn before, float32 (codes, D).

    k-means++ (Arthur & Vassilvitskii 2007). Above ROUNDS codes several are drawn per round, as in k-means|| (Bahmani et
    al. 2012). With fewer distinct vectors than codes, vectors repeat in turn.
    """
    size, sample = len(vectors_ND), vectors_ND
    per_round = -(-codes // ROUNDS)
    chosen = np.array([rng.integers(size)])
    moved = sample - sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    norm = np.einsum("nd,nd->n", moved, moved)
    # A smaller distance is a rounding error of a float32 product: the vector is a duplicate.
    same = 4e-6 * float(norm.max())
    far = _distance_to(moved, norm, chosen)
    far[far <= same] = 0
    while len(chosen) < codes and far.any():
        draw = rng.random(min(per_round, codes - len(chosen))) * far.sum()
        drawn = np.unique(np.searchsorted(np.cumsum(far), draw, side="right").clip(max=size - 1))
        chosen = np.concatenate([chosen, drawn])
        far = np.minimum(far, _distance_to(moved, norm, drawn))
        far[far <= same] = 0
    return sample[np.resize(chosen, codes)]


def _distance_to(vectors: Floats, norm: Floats, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the squared distance of each vector to the nearest chosen one."""
    nearest = (norm[chosen] - 2 * (vectors @ vectors[chosen].T)).min(axis=1)
    return np.asarray(np.maximum(nearest + norm, 0), np.float64)
