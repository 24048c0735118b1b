"""Ranking metrics against their definitions, written out case by case."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import mrr, ndcg_at, popular_rows, rank_of_target, recall_at, recall_interval

Ints = npt.NDArray[np.int64]


@st.composite
def rankings(draw: st.DrawFn) -> tuple[Ints, Ints]:
    """Rankings of distinct rows, short ones padded with -1, and a target each (-1: not in the release)."""
    cases, width = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    ranked = np.stack([rng.permutation(10)[:width] for _ in range(cases)])
    lengths = rng.integers(0, width + 1, cases)
    ranked[np.arange(width)[None, :] >= lengths[:, None]] = -1
    return ranked.astype(np.int64), rng.integers(-1, 10, cases)


@given(rankings(), st.integers(1, 6))
def test_metrics_equal_their_definitions(drawn: tuple[Ints, Ints], k: int) -> None:
    ranked, targets = drawn
    recall = ndcg = reciprocal = 0.0
    for row, target in zip(ranked.tolist(), targets.tolist(), strict=True):
        if target >= 0 and target in row:
            place = row.index(target)
            reciprocal += 1 / (place + 1)
            if place < k:
                recall += 1
                ndcg += 1 / math.log2(place + 2)
    ranks = rank_of_target(ranked, targets)
    count = len(targets)
    assert recall_at(ranks, k) == pytest.approx(recall / count)
    assert ndcg_at(ranks, k) == pytest.approx(ndcg / count)
    assert mrr(ranks) == pytest.approx(reciprocal / count)


def test_a_target_outside_the_release_is_a_miss_even_beside_padding() -> None:
    ranks = rank_of_target(np.array([[-1, -1]]), np.array([-1]))
    assert (ranks.tolist(), recall_at(ranks, 2)) == ([-1], 0.0)


def test_the_interval_is_that_of_resampled_cases() -> None:
    rng = np.random.default_rng(0)
    ranks = np.where(rng.random(200) < 0.3, 0, -1)
    resampled = [recall_at(rng.choice(ranks, len(ranks)), 1) for _ in range(4000)]
    expected = np.quantile(resampled, [0.025, 0.975])
    assert recall_interval(ranks, 1) == pytest.approx(tuple(expected), abs=0.011)
    assert recall_interval(ranks, 1) == recall_interval(ranks, 1)


@given(st.integers(0, 1000), st.integers(1, 8))
def test_popular_rows_are_the_most_counted_unseen_ones(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, 7)
    exclude = [rng.permutation(7)[:size] for size in (0, 3, 7)]
    for row, seen in zip(popular_rows(counts, width, exclude).tolist(), exclude, strict=True):
        order = sorted((item for item in range(7) if item not in seen), key=lambda item: (-counts[item], item))
        assert row == (order + [-1] * width)[:width]
