"""Balanced k-means: Lloyd's iterations with sums that are equal in any order of the items.

If no capacity binds and the vectors fit in memory, faiss runs the iterations, on a GPU if it finds one.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.distance import own_distance
from tokenizer.arrays.types import Codes, Floats, Ints
from tokenizer.balancing.assign_level import assign_level
from tokenizer.balancing.costs import CentroidLevel
from tokenizer.quantizers.seeding import sample_size, spread_centroids
from tokenizer.quantizers.target_vectors import TargetVectors

FAISS_BYTES = 1 << 30
"""Size of vectors, in bytes, up to which they are copied into memory for faiss."""


@dataclass(frozen=True)
class Clusters:
    """Centroids float32 (K, D), the codes (N,) of the items, rounds run, and the sum of squared distances."""

    centroids: Floats
    codes: Codes
    rounds: int
    distortion: float


def balanced_kmeans(
    vectors: TargetVectors,
    codes: int,
    room: int,
    iterations: int,
    rng: np.random.Generator,
    start: Floats | None = None,
) -> Clusters:
    """Run Lloyd's iterations with at most `room` items per code, until no item changes its code.

    Stops after `iterations` rounds at the latest. Starts at `start` (K, D), else at vectors drawn far apart. Empty
    codes move to the sample items that are farthest from their centroids.
    """
    items = vectors.items
    turns = np.sort(rng.choice(len(items), min(len(items), sample_size(codes)), replace=False))
    sample = items.order[turns]
    seen = vectors.take(sample)
    rounds, left = 0, iterations
    centroids_KD = spread_centroids(seen, codes, rng) if start is None else start
    if start is None and room >= len(items) >= codes and len(items) * seen[0].nbytes <= FAISS_BYTES:
        centroids_KD, rounds, left = _plain_kmeans(vectors, centroids_KD, iterations), iterations, 0

    def assigned(prices: NDArray[np.float64] | None) -> tuple[Codes, NDArray[np.float64]]:
        level, full = CentroidLevel(vectors.target, centroids_KD), np.full(codes, room, np.int64)
        found = assign_level(level, items, vectors.prefix, full, vectors.work, price_K=prices)
        return found.codes, found.prices

    codes_N, prices = assigned(None)
    for rounds in range(1, left + 1):
        centroids_KD, counts = vectors.means(codes_N, centroids_KD)
        if rounds < left:
            centroids_KD = _fill_empty(centroids_KD, counts, seen, codes_N[sample])
        former_N = codes_N
        codes_N, prices = assigned(prices)
        if np.array_equal(codes_N, former_N):
            break
    return Clusters(centroids_KD, codes_N, rounds, vectors.distortion(centroids_KD, codes_N))


def _plain_kmeans(vectors: TargetVectors, start_KD: Floats, iterations: int) -> Floats:
    """Return centroids (K, D) of faiss's k-means on all items, in order of tie key, centred on their mean."""
    vectors_ND = vectors.take(vectors.items.order)
    mean = vectors_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
    found: Any = faiss.Kmeans(
        vectors_ND.shape[1],
        len(start_KD),
        niter=iterations,
        max_points_per_centroid=len(vectors),  # else faiss draws a sample
        min_points_per_centroid=1,  # else faiss warns on stdout
        gpu=faiss.get_num_gpus(),
    )
    found.train(vectors_ND - mean, init_centroids=start_KD - mean)
    return np.asarray(found.centroids + mean, np.float32)


def _fill_empty(centroids_KD: Floats, counts: Ints, seen_SD: Floats, codes_S: Codes) -> Floats:
    """Move empty codes to the vectors farthest from their centroids, ordered by tie key among equals."""
    empty = np.flatnonzero(counts == 0)
    if not empty.size:
        return centroids_KD
    distance_S = own_distance(seen_SD, centroids_KD, codes_S)
    farthest = np.argsort(-distance_S, kind="stable")[: empty.size]
    farthest = farthest[distance_S[farthest] > 0]
    centroids_KD = centroids_KD.copy()
    centroids_KD[empty[: farthest.size]] = seen_SD[farthest]
    return centroids_KD
