"""Quality metrics of SIDs: code usage, collisions, decoding loss, and agreement of neighbours."""

import math
from dataclasses import dataclass
from functools import partial

import faiss
import numpy as np
from numpy.typing import NDArray

from learning.threads import one_thread
from tokenizer.arrays.executor import LOCAL_THREADS, Executor
from tokenizer.arrays.sid_keys import sid_keys
from tokenizer.arrays.types import Floats
from tokenizer.arrays.vectors import Items, spans
from tokenizer.code_usage import Collisions
from tokenizer.codebook import Codebook
from tokenizer.registry import quantizer_of

ROWS = 2048
"""Vectors measured at once; they fit the cache."""


def collision_metrics(codes_NL: NDArray[np.int32]) -> Collisions:
    """Return the collisions of SIDs."""
    if not len(codes_NL):
        return Collisions(0.0, 0, 0)
    sizes = [int(size) for size in codes_NL.max(axis=0) + 1]
    _, group = np.unique(sid_keys(codes_NL, sizes), return_counts=True)
    shared = int(group[group > 1].sum())
    return Collisions(shared / len(codes_NL), len(group), int(group.max()))


def decode(codebook: Codebook, codes_NL: NDArray[np.int32], source: str) -> Floats:
    """Return the vectors of `source` that SIDs stand for, float32 (N, D)."""
    return quantizer_of(codebook.spec).decode(codebook, codes_NL, source)


@dataclass(frozen=True)
class EncodingErrors:
    """Encoding errors: sums over items and sources of squared distances, so those of several nights can be added.

    `squared` sums the distances to the decoded SID, `spread` those to the mean of the fit.
    """

    squared: float
    spread: float
    items: int

    @property
    def relative(self) -> float:
        """Relative error: 0 is lossless, 1 no better than the mean of the fit. 0 for no items."""
        return self.squared / self.spread if self.spread > 0 else float(self.squared > 0)


def encoding_errors(
    codebook: Codebook, items: Items, codes_NL: NDArray[np.int32], work: Executor = LOCAL_THREADS
) -> EncodingErrors:
    """Return the encoding errors of the items that have a SID (codes >= 0)."""
    tasks = ((start, stop, codes_NL[start:stop]) for start, stop in spans(len(items)))
    parts = list(work.map(partial(_span_errors, codebook), items, tasks))
    placed = int(np.count_nonzero(codes_NL[:, -1] >= 0))
    return EncodingErrors(math.fsum(part[0] for part in parts), math.fsum(part[1] for part in parts), placed)


def _span_errors(
    codebook: Codebook, items: Items, start: int, stop: int, codes: NDArray[np.int32]
) -> tuple[float, float]:
    squared = spread = 0.0
    for source in codebook.sources:
        vectors, mean = items.rows[source].read(start, stop), codebook.arrays[f"mean.{source}"]
        for first in range(0, stop - start, ROWS):
            own = codes[first : first + ROWS]
            placed = own[:, -1] >= 0
            vector = vectors[first : first + ROWS][placed].astype(np.float64)
            squared += float(np.square(vector - decode(codebook, own[placed], source)).sum())
            spread += float(np.square(vector - mean).sum())
    return squared, spread


def first_code_costs(codebook: Codebook, items: Items) -> NDArray[np.float32]:
    """Return the cost of each item's cheapest code in the first level of each source, summed over sources, (N,)."""
    levels = [level.source for level in codebook.spec.levels]
    cost_N = np.zeros(len(items), np.float32)
    for number in (levels.index(source) for source in codebook.sources):
        level = quantizer_of(codebook.spec).level(codebook, number)
        for start, stop in spans(len(items)):
            block = items.read(start, stop, np.full((stop - start, number), -1, np.int32))
            for rows, cost in level.costs(block):
                cost_N[start:stop][rows] += cost.min(axis=1)
    return cost_N


@dataclass(frozen=True)
class DistributionShift:
    """Distance of items from those a codebook was fitted on, by the cost of their cheapest first code.

    `distance` is the mean cost relative to the fit: 1 for similar items. `beyond_p99` is the share of items with a
    higher cost than the 99th percentile of the fit: 0.01 for similar items. `mean` is their `mean_drift`.
    """

    distance: float
    beyond_p99: float
    mean: float | None


def distribution_shift(codebook: Codebook, items: Items) -> DistributionShift | None:
    """Return the shift of some items against the fit; None for no items, or if the mean cost of the fit is 0."""
    fitted = codebook.statistics["first_code_cost"]
    if not len(items) or fitted["mean"] <= 0:
        return None
    cost = first_code_costs(codebook, items)
    distance = float(cost.mean(dtype=np.float64)) / fitted["mean"]
    return DistributionShift(distance, float((cost > fitted["p99"]).mean()), mean_drift(codebook, items))


def mean_drift(codebook: Codebook, items: Items) -> float | None:
    """Return the distance of the mean of n items to the mean of the fitted items, relative to the spread of the latter.

    It is sqrt(max(0, |m - f|^2 - V / n)) / S, with squares summed over the sources of the codebook:

    - m is the mean of the items, V their variance: the sum of squared distances to m, divided by n - 1.
    - f is the mean of the fitted items, S the root of their mean squared distance to f.

    V / n is the squared distance to expect by chance, so similar items give about 0 for any n. Returns None for fewer
    than two items, and if the codes of the fitted items lost nothing, because S is computed from their error.
    """
    error, relative = (codebook.statistics.get(name, 0.0) for name in ("squared_error", "relative_error"))
    count = len(items)
    if count < 2 or error <= 0 or relative <= 0:
        return None
    moved = chance = 0.0
    for source in codebook.sources:
        vectors = items.rows[source].read(0, count).astype(np.float64)
        mean = vectors.mean(axis=0)
        moved += float(np.square(mean - codebook.arrays[f"mean.{source}"]).sum())
        chance += float(np.square(vectors - mean).sum()) / (count - 1) / count
    return math.sqrt(max(0.0, moved - chance) / (error / relative))


def pair_agreement(codes_NL: NDArray[np.int32], pairs_P2: NDArray[np.integer]) -> list[float]:
    """Return the share of item pairs (row numbers) with the same first code, first two codes, and so on to the SID.

    For items consumed together this is the behaviour hit-rate of prefixes; for random pairs it is its floor. 0 for no
    pairs.
    """
    if not len(pairs_P2):
        return [0.0] * codes_NL.shape[1]
    same = np.logical_and.accumulate(codes_NL[pairs_P2[:, 0]] == codes_NL[pairs_P2[:, 1]], axis=1)
    return [float(share) for share in same.mean(axis=0)]


def prefix_agreement(vectors_ND: Floats, codes_NL: NDArray[np.int32], k: int, sample: int, seed: int) -> list[float]:
    """Return the share of an item's `k` nearest neighbours with its first code, first two codes, ..., whole SID.

    Measured on `sample` items drawn with `seed`, against exact neighbours (squared distance) among all items. 0 if an
    item has no neighbours.
    """
    items = len(vectors_ND)
    k = min(k, items - 1)
    if k < 1:
        return [0.0] * codes_NL.shape[1]
    chosen = np.sort(np.random.default_rng(seed).choice(items, min(sample, items), replace=False))
    vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
    with one_thread():  # else the choice among equal vectors depends on the number of threads
        _, found = faiss.knn(vectors_ND[chosen], vectors_ND, k + 1)
    other = found != chosen[:, None]
    # If other items have the same vector, an item may be missing among its own neighbours: drop the last one.
    other[other.all(axis=1), -1] = False
    neighbour_Sk = found[other].reshape(len(chosen), k)
    same_SkL = np.logical_and.accumulate(codes_NL[neighbour_Sk] == codes_NL[chosen][:, None], axis=2)
    return [float(share) for share in same_SkL.mean(axis=(0, 1))]
