"""Prices of codes: at them everyone's cheapest code is that of the optimal assignment, and spare room is free."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tokenizer.balancing.prices import (
    FROM_NOTHING,
    FROM_SAMPLE,
    FROM_SIMILAR,
    CandidateCodes,
    Cooling,
    _Piece,
    settle_prices,
)

ITEMS = 8
ALL = np.tile(np.arange(ITEMS, dtype=np.int32), (ITEMS, 1))


def candidates(seed: int, scale: float = 1.0) -> tuple[NDArray[np.float32], CandidateCodes]:
    """Costs of eight items, of which each knows all of eight codes."""
    cost = (scale * np.random.default_rng(seed).random((ITEMS, ITEMS))).astype(np.float32)
    return cost, CandidateCodes(cost, ALL, np.full(ITEMS, np.inf, np.float32))


def settled(known: CandidateCodes, *coolings: Cooling, capacity: float = 1.0) -> NDArray[np.float64]:
    price = np.zeros(ITEMS)
    for cooling in coolings:
        price = settle_prices(known, np.full(ITEMS, capacity), price, cooling)
    return price


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("coolings", [(FROM_NOTHING,), (FROM_NOTHING, FROM_SAMPLE), (FROM_NOTHING, FROM_SIMILAR)])
def test_at_settled_prices_the_cheapest_code_of_each_item_is_that_of_the_optimal_assignment(
    seed: int, coolings: tuple[Cooling, ...]
) -> None:
    cost, known = candidates(seed)
    price = settled(known, *coolings)
    assert (price >= 0).all()
    np.testing.assert_array_equal((cost + price).argmin(axis=1), linear_sum_assignment(cost)[1])


def test_codes_with_room_for_all_are_free() -> None:
    _, known = candidates(0)
    np.testing.assert_allclose(settled(known, FROM_NOTHING, capacity=ITEMS), 0, atol=1e-6)


def test_prices_have_the_unit_of_the_costs_and_of_the_least_cost_beyond_the_list() -> None:
    cost = np.random.default_rng(1).random((64, 3)).astype(np.float32)
    code = np.zeros((64, 3), np.int32) + np.arange(3, dtype=np.int32)
    beyond = cost.max(axis=1) + np.float32(0.1)
    capacity = np.array([4.0, 40.0, 40.0])
    one, four = (
        settle_prices(CandidateCodes(scale * cost, code, scale * beyond), capacity, np.zeros(3), FROM_NOTHING)
        for scale in (np.float32(1), np.float32(64))
    )
    assert one[0] > 0.1, "one code is scarce"
    np.testing.assert_allclose(four, 64 * one, rtol=1e-3)


def test_demand_is_the_slope_of_the_sum_of_soft_minimum_costs() -> None:
    cost, _ = candidates(2)
    beyond = np.full(ITEMS, 0.4, np.float32)
    piece = _Piece.of(CandidateCodes(cost, ALL, beyond), slice(0, ITEMS), 1.0)
    price, heat, step = np.random.default_rng(3).random(ITEMS), 0.3, 1e-2
    exact = np.exp(-np.column_stack([cost + price, beyond]) / heat)
    least, demand = piece.demand(price, heat)
    assert least == pytest.approx(-heat * np.log(exact.sum(axis=1)).sum(), rel=1e-4)
    np.testing.assert_allclose(demand, (exact / exact.sum(axis=1, keepdims=True)).sum(axis=0)[:-1], rtol=1e-4)
    for code in range(ITEMS):
        more = price + step * (np.arange(ITEMS) == code)
        assert (piece.demand(more, heat)[0] - least) / step == pytest.approx(demand[code], abs=0.05)
