"""Ranking metrics of leave-one-out evaluation, where each case has exactly one right item.

Everything that is counted over cases goes by ranks: the place of the target from 0, -1 where it does not appear.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DRAWS = 10_000
"""Bootstrap samples of an interval."""
HEADLINE_CUT = 10


def headline_cut(cuts: Sequence[int]) -> int:
    """The k that is told where there is room for one: 10, else the largest."""
    return HEADLINE_CUT if HEADLINE_CUT in cuts else max(cuts)


def rank_of_target(ranked: Ints, target: Ints) -> Ints:
    """Place of each target in its ranking, from 0; -1 where it does not appear.

    ranked (n, W), best first, -1 padded; target (n,), where -1 (an item outside the release) appears nowhere.
    """
    return _first((ranked == target[:, None]) & (target[:, None] >= 0))


def prefix_ranks(ranked: Ints, target: Ints, numbers: Ints) -> Ints:
    """Place of the first ranked item that begins with the first l codes of the target, for l = 1..L: (n, L).

    Recall of it at k is the hierarchical recall of a prefix length: how far down the SID a ranking is right. ranked and
    target as in `rank_of_target`; numbers (N, L) as `prefix_numbers` gives.
    """
    there = (ranked >= 0) & (target[:, None] >= 0)
    return np.stack([_first(there & (of[ranked] == of[target][:, None])) for of in numbers.T], axis=1)


def _first(hit: npt.NDArray[np.bool_]) -> Ints:
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1).astype(np.int64)


def prefix_numbers(codes: npt.NDArray[np.integer]) -> Ints:
    """Number of each item's prefix among the distinct ones of its length, in order of codes: (N, L) -> (N, L).

    The last column numbers the SIDs as the nodes of a trie after its last level.
    """
    numbers = np.zeros(codes.shape, np.int64)
    above: Ints = np.zeros(len(codes), np.int64)
    for level in range(codes.shape[1]):
        size = int(codes[:, level].max(initial=0)) + 1
        _, above = np.unique(above * size + codes[:, level], return_inverse=True)
        numbers[:, level] = above
    return numbers


def hits_at(ranks: Ints, k: int) -> npt.NDArray[np.bool_]:
    """Whether each target is among the first `k`."""
    return (ranks >= 0) & (ranks < k)


def recall_at(ranks: Ints, k: int) -> float:
    """Share of cases whose target is among the first `k`: with one target, hit rate and recall are the same."""
    return float(hits_at(ranks, k).mean())


def ndcg_at(ranks: Ints, k: int) -> float:
    """Mean of 1 / log2(2 + rank) over cases with a hit in the first `k`, 0 elsewhere; the ideal is 1 for one target."""
    return float(_gains(ranks, k).mean())


def mrr(ranks: Ints) -> float:
    """Mean of 1 / (1 + rank), 0 where the target is not in the ranking; depends on how long the ranking is."""
    return float(_reciprocals(ranks).mean())


def _gains(ranks: Ints, k: int) -> Floats:
    return np.where(hits_at(ranks, k), 1.0 / np.log2(2.0 + np.maximum(ranks, 0)), 0.0)


def _reciprocals(ranks: Ints) -> Floats:
    return np.where(ranks >= 0, 1.0 / (1.0 + np.maximum(ranks, 0)), 0.0)


def intervals(ranks: Ints, cuts: Sequence[int], seed: int = 0, draws: int = DRAWS) -> dict[str, tuple[float, float]]:
    """Bootstrap 95 % intervals over cases (Efron's percentiles) of recall and NDCG at each of `cuts`, and of MRR.

    Resampling n cases draws a multinomial number of each distinct rank, so that is drawn, once for all metrics.
    """
    rank, count = np.unique(ranks, return_counts=True)
    share = np.random.default_rng(seed).multinomial(len(ranks), count / len(ranks), draws) / len(ranks)
    values = {f"recall@{k}": hits_at(rank, k).astype(np.float64) for k in cuts}
    values |= {f"ndcg@{k}": _gains(rank, k) for k in cuts} | {"mrr": _reciprocals(rank)}
    bounds = np.quantile(share @ np.stack(list(values.values()), axis=1), [0.025, 0.975], axis=0).T.tolist()
    return {name: (low, high) for name, (low, high) in zip(values, bounds, strict=True)}


def recall_interval(ranks: Ints, k: int, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """Bootstrap 95 % interval of recall at `k` over cases."""
    return intervals(ranks, [k], seed, draws)[f"recall@{k}"]


@dataclass(frozen=True)
class Bucket:
    """Cases whose value lies in [low, high]: which they are, bool (n,)."""

    low: int
    high: int
    cases: npt.NDArray[np.bool_]


def quantile_buckets(values: Ints, parts: int = 4) -> list[Bucket]:
    """Cases by a count, ascending: those of 0 apart, the others in up to `parts` buckets of about as many each.

    Cases of one value stay together, so buckets are fewer and less even where a value is frequent. Values below 0
    belong to no bucket.
    """
    buckets = [Bucket(0, 0, values == 0)] if (values == 0).any() else []
    above = np.sort(values[values > 0])
    if not len(above):
        return buckets
    # The value of the last case of each part ends it.
    ends = np.unique(above[np.ceil(np.arange(1, parts + 1) / parts * len(above)).astype(np.int64) - 1])
    starts = np.append(1, ends[:-1] + 1)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        inside = (values >= start) & (values <= end)
        buckets.append(Bucket(int(values[inside].min()), end, inside))
    return buckets
