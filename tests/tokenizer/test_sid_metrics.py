"""Metrics against slow, obvious versions of themselves."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.arrays.items import tie_keys
from tokenizer.arrays.vectors import ArrayRows, Block, Items
from tokenizer.assign import Occupancy, assign_sids
from tokenizer.code_usage import level_metrics
from tokenizer.codebook_report import SLACKS
from tokenizer.fit import fit_codebook
from tokenizer.metrics import (
    collision_metrics,
    decode,
    distribution_shift,
    mean_drift,
    pair_agreement,
    prefix_agreement,
)
from tokenizer.registry import quantizer_of
from tokenizer.spec import CodebookSpec, LevelSpec


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_level_metrics_agree_with_counting(codes: list[int]) -> None:
    found = level_metrics(np.array(codes, np.int32)[:, None], [7])[0]
    loads = [Counter(codes)[code] for code in range(7)]
    shares = [load / len(codes) for load in loads if load]
    entropy = -sum(share * math.log2(share) for share in shares)
    gini = sum(abs(one - other) for one in loads for other in loads) / (2 * 7 * sum(loads))
    assert found.utilisation == len(shares) / 7
    assert found.dead_codes == 7 - len(shares)
    assert found.entropy == pytest.approx(entropy, abs=1e-12)
    assert found.perplexity == pytest.approx(2**entropy)
    assert found.gini == pytest.approx(gini, abs=1e-12)
    assert found.max_load == max(loads)


def test_level_metrics_of_no_items_are_zero() -> None:
    (found,) = level_metrics(np.empty((0, 1), np.int32), [4])
    assert (found.utilisation, found.dead_codes, found.entropy, found.gini) == (0, 4, 0, 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_collision_metrics_agree_with_counting(sids: list[tuple[int, int]]) -> None:
    found = collision_metrics(np.array(sids, np.int32).reshape(-1, 2))
    groups = Counter(sids)
    assert found.unique_sids == len(groups)
    assert found.largest_group == max(groups.values(), default=0)
    assert found.collision_rate * max(len(sids), 1) == pytest.approx(sum(groups[sid] > 1 for sid in sids))


@pytest.mark.parametrize("levels", [1, 3])
def test_prefix_agreement_agrees_with_a_double_loop(levels: int) -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(80, 3)).astype(np.float32)
    codes = draw.integers(0, 3, (80, levels)).astype(np.int32)
    shares: list[list[bool]] = [[] for _ in range(levels)]
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


TWO_SOURCES = CodebookSpec(
    levels=(LevelSpec(codes=8, source="text"), LevelSpec(codes=8, source="text"), LevelSpec(codes=8, source="image")),
    iterations=4,
    growth=1.1,
    collision="suffix",
)


def drawn(items: int, seed: int, away: float = 0.0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    kind = draw.integers(0, 6, items)
    return {
        name: (np.eye(width)[kind] * 4 + 0.5 * draw.normal(size=(items, width)) + away).astype(np.float32)
        for name, width in (("text", 8), ("image", 6))
    }


def test_new_items_are_as_far_as_those_of_the_fit_or_farther() -> None:
    names = [f"i{row}" for row in range(400)]
    codebook = fit_codebook(drawn(400, 0), names, TWO_SOURCES)

    def shift(vectors: dict[str, np.ndarray]) -> tuple[float, float]:
        items = Items({name: ArrayRows(rows) for name, rows in vectors.items()}, np.arange(400, dtype=np.uint64))
        found = distribution_shift(codebook, items)
        assert found is not None
        return found.distance, found.beyond_p99

    def cost(vectors: dict[str, np.ndarray]) -> np.ndarray:
        nearest = [
            np.square(vectors[name][:, None] - codebook.arrays[f"level{level}"][None]).sum(axis=2).min(axis=1)
            for name, level in (("text", 0), ("image", 2))
        ]
        return np.sum(nearest, axis=0)

    fitted, fresh, far = (cost(vectors) for vectors in (drawn(400, 0), drawn(400, 1), drawn(400, 1, away=3.0)))
    for vectors, slow in ((drawn(400, 1), fresh), (drawn(400, 1, away=3.0), far)):
        expected = slow.mean() / fitted.mean(), (slow > np.quantile(fitted, 0.99)).mean()
        assert shift(vectors) == pytest.approx(expected, rel=1e-3, abs=0.005)
    assert shift(drawn(400, 0)) == pytest.approx((1.0, 0.01), abs=0.003)
    assert shift(drawn(400, 1))[1] < 0.05 < 0.9 < shift(drawn(400, 1, away=3.0))[1]
    empty = assign_sids(codebook, {name: rows[:0] for name, rows in drawn(1, 0).items()}, [], Occupancy.empty(4))
    assert empty.shift is None


def test_the_mean_of_few_new_items_has_not_moved_by_chance_and_that_of_others_has() -> None:
    codebook = fit_codebook(drawn(400, 0), [f"i{row}" for row in range(400)], TWO_SOURCES)

    def drift(vectors: dict[str, np.ndarray]) -> float | None:
        count = len(vectors["text"])
        return mean_drift(codebook, Items({name: ArrayRows(rows) for name, rows in vectors.items()}, np.arange(count)))

    def spelled_out(vectors: dict[str, np.ndarray]) -> float:
        every = np.concatenate([vectors["text"], vectors["image"]], axis=1).astype(np.float64)
        fitted = np.concatenate(list(drawn(400, 0).values()), axis=1).astype(np.float64)
        centre = fitted.mean(axis=0)
        moved = sum((every.mean(axis=0) - centre) ** 2)
        chance = every.var(axis=0, ddof=1).sum() / len(every)
        return math.sqrt(max(0.0, moved - chance) / ((fitted - centre) ** 2).sum(axis=1).mean())

    for count, seed in ((5, 1), (20, 2), (400, 3)):
        for away in (0.0, 3.0):
            vectors = drawn(count, seed, away)
            assert drift(vectors) == pytest.approx(spelled_out(vectors), rel=1e-3, abs=0.01)
    for count, most in ((5, 1.0), (20, 0.5)):
        few = np.array([drift(drawn(count, seed)) for seed in range(100)], float)
        assert few.max() < most
        assert np.median(few) < most / 5
    assert (drift(drawn(5, 1, away=6.0)) or 0.0) > 1.0
    assert drift(drawn(1, 1)) is None


@pytest.mark.parametrize("quantizer", ["rq-kmeans", "lsh", "random"])
def test_the_record_of_a_codebook_agrees_with_counting(quantizer: str) -> None:
    """Without capacity an item has the cheapest code of each level."""
    spec = CodebookSpec.model_validate(
        {"quantizer": quantizer, "levels": [{"codes": 4}] * 2, "balanced": False, "collision": "keep"}
    )
    names, vectors = [f"i{row}" for row in range(60)], drawn(60, 0)["text"]
    book = fit_codebook({"fused": vectors}, names, spec)
    record, codes = book.statistics, np.empty((60, 0), np.int32)
    for number in range(2):
        block = Block({"fused": vectors}, tie_keys(names), codes)
        cost = np.concatenate([part for _, part in quantizer_of(spec).level(book, number).costs(block)])
        codes = np.column_stack([codes, cost.argmin(axis=1).astype(np.int32)])
        loads = Counter(codes[:, number].tolist())
        assert record["levels"][number]["max_load"] == max(loads.values())
        assert record["levels"][number]["dead_codes"] == 4 - len(loads)
    sids = Counter(map(tuple, codes.tolist()))
    assert (record["unique_sids"], record["largest_group"]) == (len(sids), max(sids.values()))
    assert record["collision_rate"] == sum(count for count in sids.values() if count > 1) / 60
    lost = [math.dist(one, other) ** 2 for one, other in zip(vectors, decode(book, codes, "fused"), strict=True)]
    spread = [math.dist(vector, vectors.mean(axis=0)) ** 2 for vector in vectors]
    assert record["squared_error"] == pytest.approx(np.mean(lost), rel=1e-4)
    assert record["relative_error"] == pytest.approx(sum(lost) / sum(spread), rel=1e-4)
    near = [np.argsort([math.dist(vector, other) for other in vectors])[1:11] for vector in vectors]
    for depth, share in enumerate(record["neighbours_sharing"], start=1):
        shared = [(codes[near[row], :depth] == codes[row, :depth]).all(axis=1).mean() for row in range(60)]
        assert share == pytest.approx(np.mean(shared))


def test_the_slack_sweep_of_a_codebook_shows_load_against_error() -> None:
    names = [f"i{row}" for row in range(600)]
    vectors = drawn(600, 3)
    sweep = fit_codebook(vectors, names, TWO_SOURCES).statistics["slack_sweep"]
    assert [row["slack"] for row in sweep] == [1.0, 1.1, 1.25, 1.5, 2.0, None]
    assert len(sweep) == len(SLACKS)
    for row in sweep[:-1]:
        assert max(row["max_load"]) <= math.ceil(row["slack"] * 600 / 8) / (600 / 8)
    assert sweep[0]["max_load"] == [1.0] * 3
    assert max(sweep[-1]["max_load"]) > 1.3
    assert sweep[0]["relative_error"] > sweep[-1]["relative_error"]
