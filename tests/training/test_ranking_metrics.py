"""Ranking metrics against their definitions, written out case by case."""

import math
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation import exposure as exposures
from training.evaluation.exposure import Exposure, self_information
from training.evaluation.metrics import (
    headline_cut,
    intervals,
    mrr,
    ndcg_at,
    prefix_numbers,
    prefix_ranks,
    quantile_buckets,
    rank_of_target,
    recall_at,
    recall_interval,
)

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


def sids(seed: int) -> npt.NDArray[np.int32]:
    """Ten SIDs of three codes, some of them the same."""
    return np.random.default_rng(seed).integers(0, 3, (10, 3)).astype(np.int32)


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
    assert prefix_ranks(np.array([[-1, 9]]), np.array([-1]), prefix_numbers(sids(0))).tolist() == [[-1] * 3]


@given(rankings(), st.integers(0, 1000), st.integers(1, 6))
def test_the_recall_of_a_prefix_is_that_of_any_item_under_it(drawn: tuple[Ints, Ints], seed: int, k: int) -> None:
    ranked, targets = drawn
    codes = sids(seed).tolist()
    ranks = prefix_ranks(ranked, targets, prefix_numbers(sids(seed)))
    for length in (1, 2, 3):
        hits = 0
        for row, target in zip(ranked.tolist(), targets.tolist(), strict=True):
            shown = [codes[item][:length] for item in row[:k] if item >= 0]
            hits += target >= 0 and codes[target][:length] in shown
        assert recall_at(ranks[:, length - 1], k) == pytest.approx(hits / len(targets))


@given(st.integers(0, 1000))
def test_prefixes_are_numbered_in_order_of_their_codes(seed: int) -> None:
    codes = sids(seed)
    for length in (1, 2, 3):
        prefixes = [tuple(row[:length]) for row in codes.tolist()]
        order = sorted(set(prefixes))
        assert prefix_numbers(codes)[:, length - 1].tolist() == [order.index(prefix) for prefix in prefixes]


def test_the_interval_is_that_of_resampled_cases() -> None:
    rng = np.random.default_rng(0)
    ranks = np.where(rng.random(200) < 0.3, rng.integers(0, 6, 200), -1)
    found = intervals(ranks, [1, 5])
    assert found.keys() == {"recall@1", "recall@5", "ndcg@1", "ndcg@5", "mrr"}
    drawn = [rng.choice(ranks, len(ranks)) for _ in range(4000)]
    for name, metric in (
        ("recall@5", lambda ranks: recall_at(ranks, 5)),
        ("ndcg@5", lambda ranks: ndcg_at(ranks, 5)),
        ("mrr", mrr),
    ):
        expected = np.quantile([metric(ranks) for ranks in drawn], [0.025, 0.975])
        assert found[name] == pytest.approx(tuple(expected), abs=0.011)
    assert recall_interval(ranks, 5) == found["recall@5"] == intervals(ranks, [5])["recall@5"]


@given(st.lists(st.integers(-1, 12), min_size=1, max_size=40), st.integers(1, 5))
def test_every_counted_case_is_in_one_bucket_and_zeros_are_apart(drawn: list[int], parts: int) -> None:
    values = np.array(drawn)
    buckets = quantile_buckets(values, parts)
    held = sum((bucket.cases.astype(int) for bucket in buckets), np.zeros(len(drawn), int))
    assert held.tolist() == [int(value >= 0) for value in drawn]
    above = sorted(value for value in drawn if value > 0)
    for bucket in buckets:
        inside = values[bucket.cases]
        assert (bucket.low, bucket.high) == (inside.min(), inside.max())
        # A bucket that is larger than its part has so many cases of its last value.
        if bucket.high:
            assert len(inside) - above.count(bucket.high) < math.ceil(len(above) / parts)
    assert len(buckets) <= parts + (0 in drawn)
    assert [bucket.high for bucket in buckets if bucket.low == 0] == [0] * (0 in drawn)


def test_there_are_up_to_four_buckets_unless_another_number_is_asked_for() -> None:
    values = np.arange(100)
    assert [(bucket.low, bucket.high) for bucket in quantile_buckets(values)] == [
        (0, 0),
        (1, 25),
        (26, 50),
        (51, 75),
        (76, 99),
    ]


def test_the_headline_is_that_of_ten_where_it_is_measured_and_else_of_the_most() -> None:
    assert headline_cut((1, 10, 50)) == headline_cut((10,)) == 10
    assert headline_cut((1, 5)) == headline_cut((5, 1)) == 5
    assert headline_cut((20, 50)) == 50
    assert headline_cut((9, 11)) == 11


@settings(max_examples=60)
@given(rankings(), st.integers(0, 1000))
def test_what_is_shown_equals_its_definitions(drawn: tuple[Ints, Ints], seed: int) -> None:
    ranked, _ = drawn
    codes, counts = sids(seed).tolist(), np.random.default_rng(seed).integers(0, 5, 10)
    exposure = Exposure(prefix_numbers(sids(seed)), self_information(counts), (1, 4))
    for part in np.array_split(ranked, 3):
        exposure.add(part)
    for k in (1, 4):
        lists = [[item for item in row[:k] if item >= 0] for row in ranked.tolist()]
        shown = [item for row in lists for item in row]
        expected: dict[str, float | None] = {"coverage": len(set(shown)) / 10, "novelty": None, "exposure_gini": None}
        if shown:
            share = [(counts[item] + 1) / (counts.sum() + 10) for item in shown]
            expected["novelty"] = float(np.mean([-math.log2(each) for each in share]))
            times = [shown.count(item) for item in range(10)]
            expected["exposure_gini"] = sum(abs(a - b) for a in times for b in times) / (2 * 10 * sum(times))
        unlike = [
            np.mean([1 - common(codes[a], codes[b]) / 3 for a, b in combinations(row, 2)])
            for row in lists
            if len(row) > 1
        ]
        expected["diversity"] = float(np.mean(unlike)) if unlike else None
        figures = exposure.figures()
        for name, value in expected.items():
            assert figures[f"{name}@{k}"] == (None if value is None else pytest.approx(value)), name


def test_what_is_shown_does_not_depend_on_how_many_pairs_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked = np.stack([np.random.default_rng(case).permutation(10)[:4] for case in range(7)])
    found = []
    for pairs in (1, 40, 1000):
        monkeypatch.setattr(exposures, "PAIRS", pairs)
        exposure = Exposure(prefix_numbers(sids(0)), self_information(np.arange(10)), (2, 4))
        exposure.add(ranked)
        found.append(exposure.figures())
    assert found[0] == pytest.approx(found[2])
    assert found[1] == pytest.approx(found[2])


def common(one: list[int], other: list[int]) -> int:
    """Codes that two SIDs begin with together."""
    length = 0
    while length < len(one) and one[length] == other[length]:
        length += 1
    return length
