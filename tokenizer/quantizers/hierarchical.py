"""Hierarchical clustering: k-means within the clusters of the level before, as in P5-CID.

Every prefix has its own centroids, so their number is the product of the
level sizes. It is meant for few codes and many levels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning.trainer import Trainer, train_in_process
from tokenizer.arrays.distance import distance_blocks
from tokenizer.arrays.executor import Executor
from tokenizer.arrays.types import Array, Floats
from tokenizer.arrays.vectors import Block, Items
from tokenizer.balancing.assign_level import assign_level
from tokenizer.balancing.costs import Residual
from tokenizer.codebook import Codebook
from tokenizer.errors import CapacityExhausted
from tokenizer.quantizers.fit_levels import Fitting
from tokenizer.quantizers.protocol import Fit, Quantizer, reads_one_source
from tokenizer.quantizers.target_vectors import TargetVectors
from tokenizer.spec import CodebookSpec

CELLS = 1 << 28
"""Most floats in the centroids of the last level: 1 GiB."""
GAPS = 1 << 20
"""Number of differences between items and centroids held at once."""


@dataclass(frozen=True)
class NestedLevel:
    """A `Level`: distances to the centroids (P, K, D) under each item's prefix; `sizes` are the former levels'."""

    source: str
    sizes: tuple[int, ...]
    points: Floats

    @property
    def codes(self) -> int:
        return int(self.points.shape[1])

    def costs(self, block: Block) -> Iterator[tuple[slice, Floats]]:
        vectors = block.vectors[self.source]
        if not self.sizes:
            yield from distance_blocks(vectors, self.points[0])
            return
        # Item by item, because a product per prefix has few rows and is padded to a whole block.
        at_once = max(1, GAPS // self.points[0].size)
        for start in range(0, len(block), at_once):
            rows = slice(start, min(start + at_once, len(block)))
            gap = self.points[_clusters(block.prefix[rows], self.sizes)]
            gap -= vectors[rows, None]
            yield rows, np.einsum("nkd,nkd->nk", gap, gap)


def fit(items: Items, spec: CodebookSpec, work: Executor, train: Trainer = train_in_process) -> Fit:
    """Run Lloyd's iterations in all clusters of a level at once, under the capacity of the level's codes."""
    fitting = Fitting.begin(items, spec, work)
    source = spec.levels[0].source
    width = len(fitting.arrays[f"mean.{source}"])
    cells = math.prod(level.codes for level in spec.levels) * width
    if cells > CELLS:
        raise CapacityExhausted(
            f"hierarchical centroids of {' x '.join(str(level.codes) for level in spec.levels)} codes need {cells:,} "
            f"numbers, but at most {CELLS:,} are allowed; use fewer codes or levels, or rq-kmeans, which shares "
            "centroids"
        )
    for number in range(len(spec.levels)):
        points, codes, rounds = _fit_level(fitting, source, number)
        fitting.arrays[f"level{number}"] = points
        fitting.settle(number, codes, iterations=rounds)
    return fitting.done()


def level(codebook: Codebook, level: int) -> NestedLevel:
    """Return the costs of a level: squared distances to the centroids under the item's prefix."""
    return NestedLevel(codebook.spec.levels[0].source, codebook.sizes[:level], codebook.arrays[f"level{level}"])


def decode(codebook: Codebook, codes_NL: NDArray[np.int32], source: str) -> Floats:
    """Return the centroid of the last level, float32 (N, D)."""
    last = codebook.levels - 1
    home = _clusters(codes_NL[:, :last], codebook.sizes[:last])
    points: Array = codebook.arrays[f"level{last}"]
    return np.asarray(points[home, codes_NL[:, last]], np.float32)


def _clusters(prefix_Nl: NDArray[np.int32], sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return the cluster number of each row; arbitrary for a row without a prefix (-1), whose cost is not used."""
    if not sizes:
        return np.zeros(len(prefix_Nl), np.int64)
    return np.asarray(np.ravel_multi_index(tuple(prefix_Nl.T), tuple(sizes), mode="clip"), np.int64)


def _fit_level(fitting: Fitting, source: str, number: int) -> tuple[Floats, NDArray[np.int32], int]:
    spec, items, work = fitting.spec, fitting.fitted, fitting.work
    sizes, prefix = tuple(level.codes for level in spec.levels[:number]), fitting.codes[:, :number]
    codes, homes = spec.levels[number].codes, math.prod(sizes)
    home = _clusters(prefix, sizes)
    points = _spread(fitting, source, home, homes, codes, number)
    vectors = TargetVectors.without_codes(Residual(source, ()), items, work)
    codes_N, rounds = np.full(len(items), -1, np.int32), 0
    while rounds < spec.iterations:
        rounds += 1
        room = np.full(codes, fitting.room(number), np.int64)
        found = assign_level(NestedLevel(source, sizes, points), items, prefix, room, work)
        if np.array_equal(found.codes, codes_N):
            break
        codes_N = found.codes
        place = (home * codes + codes_N).astype(np.int32)
        flat, _ = vectors.means(place, points.reshape(homes * codes, -1))
        points = flat.reshape(points.shape)
    return points, codes_N, rounds


def _spread(fitting: Fitting, source: str, home: NDArray[np.int64], homes: int, codes: int, number: int) -> Floats:
    """Return initial centroids: items of each cluster, evenly spaced by tie key; the mean for an empty cluster."""
    items, arrays = fitting.fitted, fitting.arrays
    points = np.empty((homes, codes, len(arrays[f"mean.{source}"])), np.float32)
    points[:] = arrays[f"mean.{source}"]
    order = items.order[np.argsort(home[items.order], kind="stable")]
    first = np.searchsorted(home[order], np.arange(homes + 1))
    for cluster in np.flatnonzero(np.diff(first)):
        rows = order[first[cluster] : first[cluster + 1]]
        rows = rows[np.linspace(0, len(rows) - 1, codes).astype(np.int64)]
        points[cluster] = items.take(rows, np.empty((codes, 0), np.int32)).vectors[source]
    return points


HIERARCHICAL = Quantizer(fit, level, decode, check=reads_one_source)
