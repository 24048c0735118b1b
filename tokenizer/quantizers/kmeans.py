"""Balanced k-means over spans of items: Lloyd's iterations with sums that are equal in any order.

If no capacity binds and the vectors fit in memory, faiss runs the iterations, on a GPU if it finds one.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.distance import own_distance
from tokenizer.arrays.exact_sums import grid, sums_by_code, total
from tokenizer.arrays.executor import Executor
from tokenizer.arrays.types import Floats, Ints
from tokenizer.arrays.vectors import Items, spans
from tokenizer.balancing.assign_level import assign_level
from tokenizer.balancing.costs import CentroidLevel, Squared, Target
from tokenizer.quantizers.seeding import sample_size, spread_centroids

Codes = NDArray[np.int32]

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
    target: Target,
    items: Items,
    prefix_Nl: Codes,
    codes: int,
    room: int,
    iterations: int,
    rng: np.random.Generator,
    work: Executor,
    start: Floats | None = None,
) -> Clusters:
    """Run Lloyd's iterations with at most `room` items per code, until no item changes its code.

    Stops after `iterations` rounds at the latest. Starts at `start` (K, D), else at vectors drawn far apart. Empty
    codes move to the sample items that are farthest from their centroids.
    """
    turns = np.sort(rng.choice(len(items), min(len(items), sample_size(codes)), replace=False))
    sample = items.order[turns]
    seen = target(items.take(sample, prefix_Nl[sample]))
    rounds, left = 0, iterations
    centroids_KD = spread_centroids(seen, codes, rng) if start is None else start
    if start is None and room >= len(items) >= codes and len(items) * seen[0].nbytes <= FAISS_BYTES:
        centroids_KD, rounds, left = _plain_kmeans(target, items, prefix_Nl, centroids_KD, iterations), iterations, 0
    scale = grid(_largest(target, items, prefix_Nl, work), len(items))

    def assigned(prices: NDArray[np.float64] | None) -> tuple[Codes, NDArray[np.float64]]:
        full = np.full(codes, room, np.int64)
        found = assign_level(CentroidLevel(target, centroids_KD), items, prefix_Nl, full, None, work, prices)
        return found.codes, found.prices

    codes_N, prices = assigned(None)
    for rounds in range(1, left + 1):
        centroids_KD, counts = _means(target, scale, items, prefix_Nl, codes_N, centroids_KD, work)
        if rounds < left:
            centroids_KD = _fill_empty(centroids_KD, counts, seen, codes_N[sample])
        former_N = codes_N
        codes_N, prices = assigned(prices)
        if np.array_equal(codes_N, former_N):
            break
    return Clusters(centroids_KD, codes_N, rounds, distortion(target, centroids_KD, items, prefix_Nl, codes_N, work))


def _plain_kmeans(target: Target, items: Items, prefix_Nl: Codes, start_KD: Floats, iterations: int) -> Floats:
    """Centroids (K, D) of faiss's k-means on all items, in order of tie key, centred on their mean."""
    vectors_ND = target(items.take(items.order, prefix_Nl[items.order]))
    mean = vectors_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
    found: Any = faiss.Kmeans(
        vectors_ND.shape[1],
        len(start_KD),
        niter=iterations,
        max_points_per_centroid=len(items),  # else faiss draws a sample
        min_points_per_centroid=1,  # else faiss warns on stdout
        gpu=faiss.get_num_gpus(),
    )
    found.train(vectors_ND - mean, init_centroids=start_KD - mean)
    return np.asarray(found.centroids + mean, np.float32)


def centroids(
    target: Target, items: Items, prefix_Nl: Codes, codes_N: Codes, former_KD: Floats, work: Executor
) -> Floats:
    """The mean of the target vectors of each code's items; a code without items keeps its former centroid."""
    scale = grid(_largest(target, items, prefix_Nl, work), len(items))
    return _means(target, scale, items, prefix_Nl, codes_N, former_KD, work)[0]


def _means(
    target: Target, scale: float, items: Items, prefix_Nl: Codes, codes_N: Codes, former_KD: Floats, work: Executor
) -> tuple[Floats, Ints]:
    sums, counts = _sums(target, scale, len(former_KD), items, prefix_Nl, codes_N, work)
    means = (sums / (np.maximum(counts, 1) * scale)[:, None]).astype(np.float32)
    return np.where(counts[:, None] > 0, means, former_KD), counts


def moments(target: Target, items: Items, work: Executor) -> tuple[Floats, float]:
    """The mean of a target, float32 (D,), and the sum of squared distances to it."""
    nothing, one = np.empty((len(items), 0), np.int32), np.zeros(len(items), np.int32)
    scale = grid(_largest(target, items, nothing, work), len(items))
    sums, _ = _sums(target, scale, 1, items, nothing, one, work)
    mean = (sums / (len(items) * scale)).astype(np.float32)
    return mean[0], distortion(target, mean, items, nothing, one, work)


def deviation(target: Target, items: Items, prefix_Nl: Codes, work: Executor) -> Floats:
    """The standard deviation of a target in each dimension, float32 (D,); 1 where it does not vary."""
    one, count = np.zeros(len(items), np.int32), len(items)
    largest = _largest(target, items, prefix_Nl, work)
    scale, square_scale = grid(largest, count), grid(largest * largest, count)
    mean = _sums(target, scale, 1, items, prefix_Nl, one, work)[0][0] / (count * scale)
    square = _sums(Squared(target), square_scale, 1, items, prefix_Nl, one, work)[0][0] / (count * square_scale)
    found = np.sqrt(np.maximum(square - mean * mean, 0))
    return np.where(found > 1e-6 * max(largest, 1e-30), found, 1).astype(np.float32)


def distortion(
    target: Target, points_KD: Floats, items: Items, prefix_Nl: Codes, codes_N: Codes, work: Executor
) -> float:
    """The sum of squared distances between targets and the points of their codes."""
    reach = _largest(target, items, prefix_Nl, work) + float(np.abs(points_KD).max(initial=0))
    scale = grid(points_KD.shape[1] * reach * reach, len(items))
    tasks = ((start, stop, prefix_Nl[start:stop], codes_N[start:stop]) for start, stop in spans(len(items)))
    return sum(work.map(partial(_span_distance, target, points_KD, scale), items, tasks)) / scale


def _largest(target: Target, items: Items, prefix_Nl: Codes, work: Executor) -> float:
    tasks = ((start, stop, prefix_Nl[start:stop]) for start, stop in spans(len(items)))
    return max(work.map(partial(_span_largest, target), items, tasks), default=0.0)


def _sums(
    target: Target, scale: float, codes: int, items: Items, prefix_Nl: Codes, codes_N: Codes, work: Executor
) -> tuple[Ints, Ints]:
    tasks = ((start, stop, prefix_Nl[start:stop], codes_N[start:stop]) for start, stop in spans(len(items)))
    sums: Ints | int = 0
    counts: Ints | int = 0
    for part, count in work.map(partial(_span_sums, target, scale, codes), items, tasks):
        sums, counts = sums + part, counts + count
    return np.asarray(sums), np.asarray(counts)


def _span_largest(target: Target, items: Items, start: int, stop: int, prefix: Codes) -> float:
    return float(np.abs(target(items.read(start, stop, prefix))).max(initial=0))


def _span_sums(
    target: Target, scale: float, codes: int, items: Items, start: int, stop: int, prefix: Codes, codes_n: Codes
) -> tuple[Ints, Ints]:
    return sums_by_code(target(items.read(start, stop, prefix)), scale, codes_n, codes)


def _span_distance(
    target: Target, points: Floats, scale: float, items: Items, start: int, stop: int, prefix: Codes, codes_n: Codes
) -> int:
    return total(own_distance(target(items.read(start, stop, prefix)), points, codes_n), scale)


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
