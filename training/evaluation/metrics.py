"""Ranking metrics of leave-one-out evaluation, where each case has exactly one right item.

Metrics over cases use ranks: the position of the target from 0, or -1 if it does not appear.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenizer.arrays.types import Doubles, Ints

DRAWS = 10_000
"""Bootstrap samples of an interval."""
HEADLINE_CUT = 10
"""The k of single-figure reports."""


def headline_cut(cuts: Sequence[int]) -> int:
    """Return the k that is reported if there is space for one: 10, else the largest."""
    return HEADLINE_CUT if HEADLINE_CUT in cuts else max(cuts)


def rank_of_target(ranked: Ints, target: Ints) -> Ints:
    """Return the position of each target in its ranking, from 0; -1 if it does not appear.

    ranked (n, W), best first, -1 padded; target (n,), where -1 (an item outside the release) never appears.
    """
    return _first((ranked == target[:, None]) & (target[:, None] >= 0))


def prefix_ranks(ranked: Ints, target: Ints, numbers: Ints) -> Ints:
    """Return the position of the first ranked item that shares the first l codes of the target, for l = 1..L: (n, L).

    Its recall at k is the hierarchical recall by prefix length: how much of the SID a ranking gets right. ranked and
    target as in `rank_of_target`; numbers (N, L) as from `prefix_numbers`.
    """
    comparable = (ranked >= 0) & (target[:, None] >= 0)
    return np.stack([_first(comparable & (prefix[ranked] == prefix[target][:, None])) for prefix in numbers.T], axis=1)


def _first(hit: npt.NDArray[np.bool_]) -> Ints:
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1).astype(np.int64)


def prefix_numbers(codes: npt.NDArray[np.integer]) -> Ints:
    """Return the number of each item's prefix among those of its length, in order of codes: (N, L) -> (N, L).

    The last column numbers the SIDs like the nodes of a trie after its last level.
    """
    numbers = np.zeros(codes.shape, np.int64)
    above: Ints = np.zeros(len(codes), np.int64)
    for level in range(codes.shape[1]):
        size = int(codes[:, level].max(initial=0)) + 1
        _, above = np.unique(above * size + codes[:, level], return_inverse=True)
        numbers[:, level] = above
    return numbers


def hits_at(ranks: Ints, k: int) -> npt.NDArray[np.bool_]:
    """Return whether each target is among the first `k`."""
    return (ranks >= 0) & (ranks < k)


def recall_at(ranks: Ints, k: int) -> float:
    """Share of cases whose target is among the first `k`. With one target, hit rate and recall are the same."""
    return float(hits_at(ranks, k).mean())


def ndcg_at(ranks: Ints, k: int) -> float:
    """Return the mean over cases of 1 / log2(2 + rank), 0 beyond the first `k`: the ideal is 1 for one target."""
    return float(_gains(ranks, k).mean())


def mrr(ranks: Ints) -> float:
    """Return the mean of 1 / (1 + rank), 0 if the target is not ranked; it depends on the length of the ranking."""
    return float(_reciprocals(ranks).mean())


def _gains(ranks: Ints, k: int) -> Doubles:
    return np.where(hits_at(ranks, k), 1.0 / np.log2(2.0 + np.maximum(ranks, 0)), 0.0)


def _reciprocals(ranks: Ints) -> Doubles:
    return np.where(ranks >= 0, 1.0 / (1.0 + np.maximum(ranks, 0)), 0.0)


def intervals(ranks: Ints, cuts: Sequence[int], seed: int = 0, draws: int = DRAWS) -> dict[str, tuple[float, float]]:
    """Return bootstrap 95 % intervals over cases (Efron's percentiles) of MRR, and of recall and NDCG at each cut.

    Resampling n cases amounts to a multinomial count of each distinct rank. The counts are drawn once for all metrics.
    """
    rank, count = np.unique(ranks, return_counts=True)
    share = np.random.default_rng(seed).multinomial(len(ranks), count / len(ranks), draws) / len(ranks)
    values = {f"recall@{k}": hits_at(rank, k).astype(np.float64) for k in cuts}
    values |= {f"ndcg@{k}": _gains(rank, k) for k in cuts} | {"mrr": _reciprocals(rank)}
    bounds = np.quantile(share @ np.stack(list(values.values()), axis=1), [0.025, 0.975], axis=0).T.tolist()
    return {name: (low, high) for name, (low, high) in zip(values, bounds, strict=True)}


def recall_interval(ranks: Ints, k: int, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """Return the bootstrap 95 % interval of recall at `k` over cases."""
    return intervals(ranks, [k], seed, draws)[f"recall@{k}"]


@dataclass(frozen=True)
class Bucket:
    """Cases whose value lies in [low, high], as a mask, bool (n,)."""

    low: int
    high: int
    cases: npt.NDArray[np.bool_]


def quantile_buckets(values: Ints, parts: int = 4) -> list[Bucket]:
    """Return cases grouped by a count, ascending: those of 0, then up to `parts` buckets of about equal size.

    Cases of one value stay together, so buckets are fewer and less even if a value is frequent. Values below 0 belong
    to no bucket.
    """
    buckets = [Bucket(0, 0, values == 0)] if (values == 0).any() else []
    above = np.sort(values[values > 0])
    if not len(above):
        return buckets
    # Each part ends with the value of its last case.
    ends = np.unique(above[np.ceil(np.arange(1, parts + 1) / parts * len(above)).astype(np.int64) - 1])
    starts = np.append(1, ends[:-1] + 1)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        inside = (values >= start) & (values <= end)
        buckets.append(Bucket(int(values[inside].min()), end, inside))
    return buckets
