"""Ranking metrics of leave-one-out evaluation, where each case has exactly one right item."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def rank_of_target(ranked: Ints, target: Ints) -> Ints:
    """Place of each target in its ranking, from 0; -1 where it does not appear.

    ranked (n, W), best first, -1 padded; target (n,), where -1 (an item outside the release) appears nowhere.
    """
    hit = (ranked == target[:, None]) & (target[:, None] >= 0)
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1).astype(np.int64)


def hits_at(ranks: Ints, k: int) -> npt.NDArray[np.bool_]:
    """Whether each target is among the first `k`."""
    return (ranks >= 0) & (ranks < k)


def recall_at(ranks: Ints, k: int) -> float:
    """Share of cases whose target is among the first `k`: with one target, hit rate and recall are the same."""
    return float(hits_at(ranks, k).mean())


def ndcg_at(ranks: Ints, k: int) -> float:
    """Mean of 1 / log2(2 + rank) over cases with a hit in the first `k`, 0 elsewhere; the ideal is 1 for one target."""
    return float(np.where(hits_at(ranks, k), 1.0 / np.log2(2.0 + np.maximum(ranks, 0)), 0.0).mean())


def mrr(ranks: Ints) -> float:
    """Mean of 1 / (1 + rank), 0 where the target is not in the ranking; depends on how long the ranking is."""
    return float(np.where(ranks >= 0, 1.0 / (1.0 + np.maximum(ranks, 0)), 0.0).mean())


def recall_interval(ranks: Ints, k: int, seed: int = 0, draws: int = 10_000) -> tuple[float, float]:
    """Bootstrap 95 % interval of recall at `k` over cases.

    Resampling n cases of zeros and ones draws a binomial(n, recall) number of hits, so that is drawn directly.
    """
    resampled = np.random.default_rng(seed).binomial(len(ranks), recall_at(ranks, k), draws) / len(ranks)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def popular_rows(counts: Ints, width: int, exclude: Sequence[Ints]) -> Ints:
    """The `width` most frequent rows for each user, without the rows excluded for them; (n, width), -1 padded.

    counts (N,) are train events per row before the cutoff; ties go to the lower row.
    """
    order = np.argsort(-counts, kind="stable")
    out = np.full((len(exclude), width), -1, dtype=np.int64)
    for user, rows in enumerate(exclude):
        head = order[: width + len(rows)]
        kept = head[~np.isin(head, rows)][:width]
        out[user, : len(kept)] = kept
    return out
