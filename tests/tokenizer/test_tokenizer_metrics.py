"""Metrics against slow, obvious versions of themselves."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.metrics import collision_metrics, level_metrics, pair_agreement, prefix_agreement


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_level_metrics_agree_with_counting(codes: list[int]) -> None:
    found = level_metrics(np.array(codes, np.int32)[:, None], [7])[0]
    loads = [Counter(codes)[code] for code in range(7)]
    shares = [load / len(codes) for load in loads if load]
    entropy = -sum(share * math.log2(share) for share in shares)
    gini = sum(abs(one - other) for one in loads for other in loads) / (2 * 7 * sum(loads))
    assert found["utilisation"] == len(shares) / 7
    assert found["dead_codes"] == 7 - len(shares)
    assert found["entropy"] == pytest.approx(entropy, abs=1e-12)
    assert found["perplexity"] == pytest.approx(2**entropy)
    assert found["gini"] == pytest.approx(gini, abs=1e-12)
    assert found["max_load"] == max(loads)


def test_level_metrics_of_no_items_are_zero() -> None:
    (found,) = level_metrics(np.empty((0, 1), np.int32), [4])
    assert (found["utilisation"], found["dead_codes"], found["entropy"], found["gini"]) == (0, 4, 0, 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_collision_metrics_agree_with_counting(sids: list[tuple[int, int]]) -> None:
    found = collision_metrics(np.array(sids, np.int32).reshape(-1, 2))
    groups = Counter(sids)
    assert found["unique_sids"] == len(groups)
    assert found["largest_group"] == max(groups.values(), default=0)
    assert found["collision_rate"] * max(len(sids), 1) == pytest.approx(sum(groups[sid] > 1 for sid in sids))


@pytest.mark.parametrize("levels", [1, 3])
def test_prefix_agreement_agrees_with_a_double_loop(levels: int) -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(80, 3)).astype(np.float32)
    codes = draw.integers(0, 3, (80, levels)).astype(np.int32)
    shares: list[list[bool]] = [[] for _ in range(min(levels, 2))]
    for item in range(80):
        distance = [math.dist(vectors[item], other) for other in vectors]
        neighbours = [other for other in np.argsort(distance).tolist() if other != item][:5]
        for depth, share in enumerate(shares, start=1):
            share += [bool((codes[other, :depth] == codes[item, :depth]).all()) for other in neighbours]
    expected = [sum(share) / len(share) for share in shares]
    assert prefix_agreement(vectors, codes, 5, 80, seed=1) == pytest.approx(expected)


def test_prefix_agreement_counts_items_with_the_same_vector_as_neighbours() -> None:
    vectors = np.zeros((30, 2), np.float32)
    assert prefix_agreement(vectors, np.zeros((30, 2), np.int32), 4, 30, seed=0) == [1.0, 1.0]
    assert prefix_agreement(vectors[:1], np.zeros((1, 2), np.int32), 4, 30, seed=0) == [0.0, 0.0]


def test_pair_agreement_counts_shared_prefixes() -> None:
    codes = np.array([[1, 2, 3], [1, 2, 4], [1, 5, 3], [2, 2, 3]], np.int32)
    pairs = np.array([[0, 1], [0, 2], [0, 3], [1, 1]])
    slow = [
        sum(codes[one, :length].tolist() == codes[other, :length].tolist() for one, other in pairs) / 4
        for length in (1, 2, 3)
    ]
    assert pair_agreement(codes, pairs) == slow == [0.75, 0.5, 0.25]
    assert pair_agreement(codes, pairs[:0]) == [0.0] * 3
