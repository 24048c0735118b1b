"""Where k-means starts: centroids spread over the data."""

import numpy as np
from numpy.typing import NDArray

from tokenizer.distance import Floats, distance_blocks

ROUNDS = 256
SAMPLE_ROWS = 4096
SAMPLE_ROWS_PER_CODE = 16


def sample_size(codes: int) -> int:
    """How many vectors are enough to draw from."""
    return max(SAMPLE_ROWS, SAMPLE_ROWS_PER_CODE * codes)


def spread_centroids(vectors_ND: Floats, codes: int, rng: np.random.Generator) -> Floats:
    """`codes` of the vectors, drawn by squared distance from those drawn before, float32 (codes, D).

    k-means++ (Arthur & Vassilvitskii 2007); above ROUNDS codes several are drawn per round, as in
    k-means|| (Bahmani et al. 2012). Fewer distinct vectors than codes: they repeat in turn.
    """
    size, sample = len(vectors_ND), vectors_ND
    per_round = -(-codes // ROUNDS)
    chosen = np.array([rng.integers(size)])
    far = _distance_to(sample, sample[chosen])
    # Below this a distance is the rounding error of a float32 product, and the vector a repetition.
    same = 1e-6 * float(np.einsum("nd,nd->n", sample, sample, dtype=np.float64).max())
    while len(chosen) < codes and float(far.max()) > same:
        draw = rng.random(min(per_round, codes - len(chosen))) * far.sum()
        drawn = np.unique(np.searchsorted(np.cumsum(far), draw, side="right").clip(max=size - 1))
        chosen = np.concatenate([chosen, drawn])
        far = np.minimum(far, _distance_to(sample, sample[drawn]))
        far[far <= same] = 0
    return sample[np.resize(chosen, codes)]


def _distance_to(vectors: Floats, centroids: Floats) -> NDArray[np.float64]:
    distance = np.empty(len(vectors))
    for rows, cost in distance_blocks(vectors, centroids):
        distance[rows] = cost.min(axis=1)
    return distance
