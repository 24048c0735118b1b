"""Counts of co-consumed items out of core: sorted runs of pairs on the scratch disk, merged by blocks of items.

Shapes: N items of a log, F context items, which are those of a fit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from pipelines.event_log.visible_log import EventArrays
from tokenizer.arrays.executor import LOCAL_THREADS
from tokenizer.arrays.spool import Spool
from tokenizer.arrays.types import Bools, Doubles, Ints
from tokenizer.arrays.vectors import NOTHING, SPAN, Items

BLOCK_PAIRS = 1 << 21
"""Pairs of the runs that a block of items has at most, unless one item has more."""


@dataclass
class PairCounts:
    """Counts of how often each item occurs near each context item, and near any item (`met`, N).

    A pair is the number item * F + context. Each part of the log is a run: its pairs, sorted, each once. Sums of whole
    weights are exact; others are added run by run, in event order.
    """

    contexts: Ints
    met: Doubles
    pairs: Spool = field(default_factory=lambda: Spool(np.int64))
    weights: Spool = field(default_factory=lambda: Spool(np.float64))
    runs: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def of(
        cls, parts: Iterable[EventArrays], items: int, contexts: Ints, window: int, wanted: Bools | None = None
    ) -> "PairCounts":
        """Count the pairs of the parts of a log of `items` items; with `wanted` (N,), only those of some items."""
        place = np.full(items, -1, np.int32)
        place[contexts] = np.arange(len(contexts), dtype=np.int32)
        counts = cls(contexts, np.zeros(items))
        count = partial(_counted, window=window, place=place, contexts=len(contexts), wanted=wanted)
        for item, met, pairs, weights in LOCAL_THREADS.map(count, NOTHING, ((part,) for part in parts)):
            np.add.at(counts.met, item, met)
            counts.runs.append((len(counts.pairs), len(counts.pairs) + len(pairs)))
            counts.pairs.append(pairs)
            counts.weights.append(weights)
        return counts

    def blocks(self, only: Bools | None = None) -> Iterator[tuple[slice, csr_matrix]]:
        """Yield consecutive rows of items, and their counts with the context items, sparse float64 (rows, F).

        With `only` (N,), the rows of other items are left empty.
        """
        edges = self._edges
        bounds = np.array([self._bounds(run, edges) for run in self.runs], np.int64).reshape(-1, len(edges))
        for block, (first, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
            pieces = [(low, high) for low, high in bounds[:, block : block + 2].tolist() if low < high]
            pairs = np.concatenate([np.empty(0, np.int64), *(self.pairs.read(*piece) for piece in pieces)])
            weights = np.concatenate([np.empty(0), *(self.weights.read(*piece) for piece in pieces)])
            if only is not None:
                kept = only[pairs // len(self.contexts)]
                pairs, weights = pairs[kept], weights[kept]
            pairs, weights = summed(pairs, weights)
            row, context = np.divmod(pairs - first * len(self.contexts), len(self.contexts))
            starts = np.searchsorted(row, np.arange(stop - first + 1))
            yield slice(first, stop), csr_matrix((weights, context, starts), (stop - first, len(self.contexts)))

    @cached_property
    def _edges(self) -> Ints:
        """First rows of the blocks, and the number of items."""
        pairs_before = np.zeros(len(self.met) + 1, np.int64)
        for run in self.runs:
            np.add.at(pairs_before, self.pairs.read(*run) // len(self.contexts) + 1, 1)
        np.cumsum(pairs_before, out=pairs_before)
        edges = [0]
        while edges[-1] < len(self.met):
            full = int(np.searchsorted(pairs_before, pairs_before[edges[-1]] + BLOCK_PAIRS, side="right")) - 1
            edges.append(min(max(full, edges[-1] + 1), edges[-1] + SPAN, len(self.met)))
        return np.array(edges, np.int64)

    def _bounds(self, run: tuple[int, int], edges: Ints) -> Ints:
        """Return where each block begins in a run, and where the last ends."""
        return np.asarray(run[0] + np.searchsorted(self.pairs.read(*run), edges * len(self.contexts)), np.int64)


def _counted(
    items: Items, part: EventArrays, window: int, place: NDArray[np.int32], contexts: int, wanted: Bools | None
) -> tuple[Ints, Doubles, Ints, Doubles]:
    """Return the item of each event and the weight of its pairs, and the distinct pairs with their weights."""
    own, met = place[part.item], np.zeros(len(part))
    found, weights = [np.empty(0, np.int64)], [np.empty(0)]
    for earlier, later in part.neighbours(window):
        other = part.item[earlier] != part.item[later]
        earlier, later = earlier[other], later[other]
        weight = part.weight[earlier] * part.weight[later]
        met[earlier] += weight
        met[later] += weight
        for item, near in ((earlier, later), (later, earlier)):
            kept = own[near] >= 0 if wanted is None else (own[near] >= 0) & wanted[part.item[item]]
            found.append(part.item[item[kept]] * contexts + own[near[kept]])
            weights.append(weight[kept])
    return part.item, met, *summed(np.concatenate(found), np.concatenate(weights))


def summed(pairs: Ints, weights: Doubles) -> tuple[Ints, Doubles]:
    """Return the distinct pairs, ascending, with the sum of the weights of each; pairs whose sum is 0 are left out."""
    order = np.argsort(pairs, kind="stable")
    pairs, weights = pairs[order], weights[order]
    first = np.flatnonzero(np.diff(pairs, prepend=-1))
    if not len(first):
        return pairs, weights
    sums = np.add.reduceat(weights, first)
    return pairs[first][sums != 0], sums[sums != 0]
