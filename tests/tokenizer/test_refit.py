"""Refits that move few SIDs, and what they buy."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tokenizer.assign import Occupancy, assign_sids
from tokenizer.codebook import Codebook
from tokenizer.fit import fit_codebook
from tokenizer.refit import refit_codebook
from tokenizer.spec import CodebookSpec, LevelSpec, RefitSpec

DRAW = np.random.default_rng(0)
CENTRES = 2 * DRAW.normal(size=(40, 16))
VECTORS = (CENTRES[DRAW.zipf(1.4, 2400) % 40] + DRAW.normal(size=(2400, 16))).astype(np.float32)
IDS = [f"item-{row}" for row in range(len(VECTORS))]
NEW = DRAW.random(len(VECTORS)) < 0.1
OLD = np.flatnonzero(~NEW)


@cache
def published(balanced: bool) -> tuple[Codebook, NDArray[np.int32]]:
    spec = CodebookSpec(levels=(LevelSpec(codes=32),) * 3, iterations=8, balanced=balanced, slack=1.3, growth=1.2)
    book = fit_codebook({"fused": VECTORS[OLD]}, [IDS[row] for row in OLD], spec)
    codes = np.full((len(VECTORS), 3), -1, np.int32)
    nobody = Occupancy.empty(3)
    codes[OLD] = assign_sids(book, {"fused": VECTORS[OLD]}, [IDS[row] for row in OLD], nobody).codes
    return book, codes


def plain_warm_start(book: Codebook, codes: NDArray[np.int32]) -> tuple[float, float]:
    """One Lloyd iteration per level from the old centroids, then everyone to the nearest: churn and error."""
    left, again = VECTORS.astype(np.float64), np.empty((len(VECTORS), 3), np.int32)
    for level in range(3):
        points = book.arrays[f"level{level}"].astype(np.float64)
        near = ((left[:, None] - points) ** 2).sum(axis=2).argmin(axis=1)
        points = np.stack(
            [left[near == code].mean(axis=0) if (near == code).any() else points[code] for code in range(32)]
        )
        again[:, level] = ((left[:, None] - points) ** 2).sum(axis=2).argmin(axis=1)
        left = left - points[again[:, level]]
    spread = ((VECTORS - VECTORS.mean(axis=0)) ** 2).sum()
    return float((again != codes)[OLD].any(axis=1).mean()), float((left**2).sum() / spread)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("budget", [0.0, 0.05, 0.3])
def test_a_refit_keeps_to_its_budget_and_stays_lawful(balanced: bool, budget: float) -> None:
    book, codes = published(balanced)
    made = refit_codebook(book, {"fused": VECTORS}, IDS, codes, RefitSpec(budget=budget, steps=3))
    assert (made.codes[OLD] != codes[OLD]).any(axis=1).mean() == made.frontier[-1]["churn"] <= budget
    assert len(np.unique(made.codes, axis=0)) == len(VECTORS)
    for level, capacity in enumerate(made.codebook.capacity):
        assert np.bincount(made.codes[:, level]).max() <= capacity
    errors = [point["relative_error"] for point in made.frontier]
    assert errors == sorted(errors, reverse=True)
    assert made.codebook.id != book.id


def test_a_refit_without_churn_still_moves_the_centroids_and_buys_something() -> None:
    book, codes = published(balanced=False)
    made = refit_codebook(book, {"fused": VECTORS}, IDS, codes, RefitSpec(budget=0.0))
    assert made.frontier[-1]["churn"] == 0
    assert made.frontier[-1]["relative_error"] < 0.99 * made.frontier[0]["relative_error"]


def test_more_churn_buys_more_and_beats_a_plain_warm_start_at_no_more_churn() -> None:
    book, codes = published(balanced=False)
    churn, error = plain_warm_start(book, codes)
    made = refit_codebook(book, {"fused": VECTORS}, IDS, codes, RefitSpec(budget=min(churn, 0.05), steps=3))
    assert made.frontier[-1]["relative_error"] < error
    assert made.frontier[-1]["churn"] <= churn


def test_the_order_of_the_items_does_not_matter() -> None:
    book, codes = published(balanced=True)
    shuffled = np.random.default_rng(1).permutation(len(VECTORS))
    made = refit_codebook(book, {"fused": VECTORS}, IDS, codes, RefitSpec(budget=0.05, steps=2))
    again = refit_codebook(
        book,
        {"fused": VECTORS[shuffled]},
        [IDS[row] for row in shuffled],
        codes[shuffled],
        RefitSpec(budget=0.05, steps=2),
    )
    np.testing.assert_array_equal(made.codes[shuffled], again.codes)
    assert made.codebook.id == again.codebook.id


def test_what_cannot_be_refitted_is_refused() -> None:
    _, codes = published(balanced=True)
    with pytest.raises(ValueError, match="less than or equal to 1"):
        RefitSpec(budget=1.5)
    lsh = fit_codebook({"fused": VECTORS}, IDS, CodebookSpec(quantizer="lsh", levels=(LevelSpec(codes=64),) * 3))
    with pytest.raises(ValueError, match="only plain rq-kmeans"):
        refit_codebook(lsh, {"fused": VECTORS}, IDS, codes)


def test_the_record_of_a_refit_is_of_the_refit() -> None:
    book, codes = published(balanced=True)
    made = refit_codebook(book, {"fused": VECTORS}, IDS, codes, RefitSpec(budget=0.05, steps=1))
    record, left = made.codebook.statistics, VECTORS.astype(np.float64)
    assert record.keys() == book.statistics.keys() | {"frontier"}
    assert record["items"] == len(VECTORS) > book.statistics["items"]
    spread = ((VECTORS - VECTORS.mean(axis=0)) ** 2).sum()
    for level, figures in enumerate(record["levels"]):
        loads = Counter(made.codes[:, level].tolist())
        assert figures["max_load"] == max(loads.values())
        assert figures["dead_codes"] == 32 - len(loads)
        left = left - made.codebook.arrays[f"level{level}"][made.codes[:, level]]
        assert figures["relative_error"] == pytest.approx((left**2).sum() / spread, rel=1e-4)
    assert record["relative_error"] == pytest.approx(made.frontier[-1]["relative_error"], rel=1e-3)
    assert (record["collision_rate"], record["unique_sids"], record["largest_group"]) == (0, len(VECTORS), 1)


def test_codes_keep_their_numbers_in_a_refit() -> None:
    """Matching old centroids to new ones (Hungarian, least squared distance) gives every code itself."""
    book, codes = published(balanced=True)
    made = refit_codebook(book, {"fused": VECTORS}, IDS, codes, RefitSpec(budget=0.1, steps=2))
    for level in range(3):
        old, new = (each.arrays[f"level{level}"].astype(np.float64) for each in (book, made.codebook))
        apart = ((old[:, None] - new) ** 2).sum(axis=2)
        np.testing.assert_array_equal(linear_sum_assignment(apart)[1], np.arange(32))
    assert made.frontier[-1]["first_code_churn"] == (made.codes != codes)[OLD, 0].mean() > 0
