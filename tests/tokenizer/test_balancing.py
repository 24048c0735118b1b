"""Capacity-respecting assignment against the exact optimum, and what must hold for every input."""

import numpy as np
import ot
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tokenizer.arrays.distance import BLOCK, cheapest, distance_blocks, nearest, own_distance
from tokenizer.arrays.executor import LOCAL_THREADS
from tokenizer.arrays.items import tie_keys
from tokenizer.arrays.vectors import ArrayRows, Items
from tokenizer.balancing import assign_level as assignment
from tokenizer.balancing import rounding
from tokenizer.balancing.assign_level import assign_level, balanced_assign, room_left
from tokenizer.balancing.costs import CentroidLevel, Residual
from tokenizer.balancing.prefix_capacity import PrefixCapacity
from tokenizer.balancing.rounding import _sorted_rows, accept


def skewed(items: int, codes: int, width: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    draw = np.random.default_rng(seed)
    centre = draw.normal(size=(8, width)) * (seed % 4)
    vectors = centre[draw.choice(8, items, p=draw.dirichlet(np.full(8, 0.5)))] + draw.normal(size=(items, width))
    points = vectors[draw.choice(items, codes)] + 0.1 * draw.normal(size=(codes, width))
    return vectors.astype(np.float32), points.astype(np.float32)


def dense_cost(vectors: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float64]:
    gaps = (np.square(vectors.astype(np.float64) - point).sum(axis=1) for point in points)
    return np.stack(list(gaps), axis=1)


def shaped(kind: str, items: int, codes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    draw = np.random.default_rng(0)
    centre = 3 * draw.normal(size=(64, 32))
    vectors = {
        "uniform": lambda: draw.uniform(-1, 1, (items, 32)),
        "clustered": lambda: centre[draw.integers(64, size=items)] + draw.normal(size=(items, 32)),
        "skewed": lambda: centre[draw.zipf(1.5, items) % 64] + draw.normal(size=(items, 32)),
    }[kind]()
    return vectors.astype(np.float32), vectors[draw.choice(items, codes, replace=False)].astype(np.float32)


@pytest.mark.parametrize("kind", ["uniform", "clustered", "skewed"])
@pytest.mark.parametrize(("items", "codes", "over"), [(4096, 64, 0.03), (10_000, 256, 0.05)])
def test_exact_capacity_costs_little_over_the_optimum(kind: str, items: int, codes: int, over: float) -> None:
    """Slack 1.0 against exact optimal transport; places beyond the number of items go to an item that costs nothing."""
    vectors, points = shaped(kind, items, codes)
    capacity = np.full(codes, -(-items // codes))
    cost = np.vstack([dense_cost(vectors, points), np.zeros(codes)])
    mass = np.append(np.ones(items), capacity.sum() - items)
    plan = ot.emd(mass / mass.sum(), capacity / capacity.sum(), cost, numItermax=10**7)
    optimum = float((plan * cost).sum() * mass.sum())
    assigned = balanced_assign(vectors, points, capacity, tie_keys([str(row) for row in range(items)])).codes
    assert np.bincount(assigned, minlength=codes).max() <= capacity[0]
    assert optimum * (1 - 1e-6) <= own_distance(vectors, points, assigned).sum() <= (1 + over) * optimum


def test_many_skewed_items_stay_near_the_bound_that_their_prices_prove() -> None:
    """By duality no assignment costs less than sum_i min_k (cost + price) - sum_k capacity * price, at any
    prices.

    Items see 87 of 100 codes here, which lie in the same few places for all of a cluster.
    """
    vectors, points = skewed(6000, 100, 8, 7)
    capacity = np.full(100, 66)
    found = balanced_assign(vectors, points, capacity, tie_keys([str(row) for row in range(6000)]))
    assigned, prices = found.codes, found.prices
    bound = (dense_cost(vectors, points) + prices).min(axis=1).sum() - capacity @ prices
    assert own_distance(vectors, points, assigned).sum() <= 1.02 * bound


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200), st.integers(1, 24), st.integers(0, 10**6), st.data())
def test_capacity_is_never_exceeded_and_never_wasted(items: int, codes: int, seed: int, data: st.DataObject) -> None:
    vectors, points = skewed(max(items, 1), codes, 4, seed)
    vectors = vectors[:items]
    capacity = np.array(data.draw(st.lists(st.integers(0, 20), min_size=codes, max_size=codes)))
    assigned = balanced_assign(vectors, points, capacity, tie_keys([str(row) for row in range(items)])).codes
    assert assigned.dtype == np.int32
    assert (np.bincount(assigned[assigned >= 0], minlength=codes) <= capacity).all()
    assert (assigned >= 0).sum() == min(items, capacity.sum())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 12), st.floats(1, 2), st.integers(0, 10**6))
def test_an_item_gets_the_same_code_in_any_order(items: int, codes: int, slack: float, seed: int) -> None:
    vectors, points = skewed(items, codes, 3, seed)
    vectors[items // 2 :] = vectors[0]
    keys = tie_keys([f"item-{row}" for row in range(items)])
    capacity = np.full(codes, int(np.ceil(slack * items / codes)))
    shuffled = np.random.default_rng(seed).permutation(items)
    assigned = balanced_assign(vectors, points, capacity, keys).codes
    again = balanced_assign(vectors[shuffled], points, capacity, keys[shuffled]).codes
    np.testing.assert_array_equal(assigned[shuffled], again)


def test_without_binding_capacity_everyone_gets_the_nearest() -> None:
    vectors, points = skewed(500, 20, 8, 3)
    assigned = balanced_assign(vectors, points, np.full(20, 500), tie_keys([str(row) for row in range(500)])).codes
    np.testing.assert_array_equal(assigned, nearest(vectors, points))
    cost = dense_cost(vectors, points)
    np.testing.assert_allclose(cost[np.arange(500), assigned], cost.min(axis=1), rtol=1e-4)


def test_nearest_does_not_depend_on_how_many_rows_are_asked_for() -> None:
    vectors, points = skewed(BLOCK + 300, 33, 24, 5)
    together = nearest(vectors, points)
    for rows in (slice(0, 1), slice(3, 10), slice(BLOCK - 5, BLOCK + 7)):
        np.testing.assert_array_equal(nearest(vectors[rows], points), together[rows])


def test_distances_far_from_the_origin_keep_their_digits() -> None:
    vectors, points = skewed(200, 16, 8, 2)
    np.testing.assert_array_equal(
        nearest(vectors + 512, points + 512), nearest(vectors + 512 - 512, points + 512 - 512)
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.floats(1.0, 1.4), st.integers(0, 10**6), st.booleans())
def test_codes_are_those_of_asking_in_rounds(items: int, codes: int, slack: float, seed: int, alike: bool) -> None:
    """Against all costs at once: in each round everyone left asks for the cheapest code that has room."""
    vectors, points = skewed(items, codes, 4, seed)
    if alike:
        vectors, points = np.round(vectors), np.round(points)
    capacity = np.full(codes, -int(-slack * items // codes))
    ties = tie_keys([str(row) for row in range(items)])
    assigned = balanced_assign(vectors, points, capacity, ties)
    cost = np.concatenate([cost for _, cost in distance_blocks(vectors, points)]) + assigned.prices.astype(np.float32)
    expected, room, turn = np.full(items, -1), capacity.copy(), np.argsort(ties, kind="stable")
    while (expected < 0).any():
        open_cost = np.where(room > 0, cost, np.inf)
        ordered = np.sort(np.column_stack([open_cost, np.full(items, np.inf)]), axis=1)
        asked, regret = open_cost.argmin(axis=1), np.minimum(ordered[:, 1], np.finfo(np.float32).max) - ordered[:, 0]
        for code in range(codes):
            asking = [row for row in turn if expected[row] < 0 and asked[row] == code]
            served = sorted(asking, key=lambda row: -regret[row])[: room[code]]
            expected[served] = code
            room[code] -= len(served)
    np.testing.assert_array_equal(assigned.codes, expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(2, 12), st.integers(1, 3), st.integers(1, 3), st.integers(0, 10**6))
def test_codes_below_prefixes_are_those_of_asking_in_rounds(
    items: int, codes: int, prefixes: int, last: int, seed: int
) -> None:
    """As above, where `last` SIDs lie below each prefix and code as well: 1 at the last level, more above."""
    vectors, points = skewed(items, codes, 3, seed)
    draw = np.random.default_rng(seed)
    prefix = draw.integers(0, prefixes, (items, 1)).astype(np.int32)
    sizes = (prefixes, codes) if last == 1 else (prefixes, codes, last, 2)
    below = 1 if last == 1 else last * 2
    room = np.full(codes, max(1, items // 2))
    ties = tie_keys([str(row) for row in range(items)])
    nodes = PrefixCapacity(prefix, np.empty((0, len(sizes)), np.int32), sizes, np.ones(sizes[-1], np.bool_))
    level = CentroidLevel(Residual("", ()), points)
    block = Items({"": ArrayRows(vectors)}, ties)
    found = assign_level(level, block, prefix, room.copy(), LOCAL_THREADS, prefixes=nodes if nodes.binding else None)
    cost = np.concatenate([cost for _, cost in distance_blocks(vectors, points)]) + found.prices.astype(np.float32)
    left, turn = np.full((prefixes, codes), below), np.argsort(ties, kind="stable")
    expected = np.full(items, -1)
    while True:
        open_cost = np.where((room > 0) & (left[prefix[:, 0]] > 0), cost, np.inf)
        ordered = np.sort(np.column_stack([open_cost, np.full(items, np.inf)]), axis=1)
        asked, regret = open_cost.argmin(axis=1), np.minimum(ordered[:, 1], np.finfo(np.float32).max) - ordered[:, 0]
        waiting = [row for row in turn if expected[row] < 0 and np.isfinite(ordered[row, 0])]
        if not waiting:
            break
        for node in {(prefix[row, 0], asked[row]) for row in waiting}:
            asking = [row for row in waiting if (prefix[row, 0], asked[row]) == node]
            expected[sorted(asking, key=lambda row: -regret[row])[: left[node]]] = -2
        for code in range(codes):
            asking = [row for row in waiting if expected[row] == -2 and asked[row] == code]
            served = sorted(asking, key=lambda row: -regret[row])[: room[code]]
            expected[asking] = -1
            expected[served] = code
            room[code] -= len(served)
            np.subtract.at(left, (prefix[served, 0], code), 1)
    np.testing.assert_array_equal(found.codes, expected)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 10**6), st.data())
def test_the_cheapest_codes_are_those_of_sorting(rows: int, codes: int, seed: int, data: st.DataObject) -> None:
    cost = np.random.default_rng(seed).choice(np.float32([-0.0, 0, 1, 1, 2, np.inf]), (rows, codes))
    width = data.draw(st.integers(1, codes))
    least, code = cheapest(cost, width)
    expected = np.argsort(cost, axis=1, kind="stable")[:, :width]
    np.testing.assert_array_equal(code, expected)
    np.testing.assert_array_equal(least, np.take_along_axis(cost, expected, axis=1))


def test_full_codes_are_avoided_by_all() -> None:
    vectors, points = skewed(100, 5, 4, 1)
    assigned = balanced_assign(
        vectors, points, np.array([0, 100, 0, 100, 0]), tie_keys([str(n) for n in range(100)])
    ).codes
    expected = np.array([1, 3])[dense_cost(vectors, points[[1, 3]]).argmin(axis=1)]
    np.testing.assert_array_equal(assigned, expected)


def test_when_candidates_are_fewer_than_codes_far_codes_are_still_found() -> None:
    """All items in one place and 400 codes spread around it: the last items find the farthest codes."""
    draw = np.random.default_rng(0)
    vectors = 1e-3 * draw.normal(size=(800, 4)).astype(np.float32)
    points = draw.normal(size=(400, 4)).astype(np.float32)
    assigned = balanced_assign(vectors, points, np.full(400, 2), tie_keys([str(row) for row in range(800)])).codes
    assert (np.bincount(assigned, minlength=400) == 2).all()


def test_tie_keys_are_the_same_for_lists_and_arrow_arrays() -> None:
    ids = ["a", "b", "ü", ""]
    assert tie_keys(ids).tolist() == tie_keys(pa.array(ids)).tolist() == tie_keys(pa.chunked_array([ids])).tolist()
    assert tie_keys(ids).tolist() == [slow_hash(item.encode()) for item in ids]
    longer = ["12345678", "123456789", "x" * 40]
    assert tie_keys(longer).tolist() == [slow_hash(item.encode()) for item in longer]


def slow_hash(item: bytes) -> int:
    odd, state = 0x9E3779B97F4A7C15, len(item)
    for start in range(0, len(item), 8):
        state = (state ^ int.from_bytes(item[start : start + 8], "little")) * odd % 2**64
        state ^= state >> 32
    return state * odd % 2**64


@pytest.fixture(params=[2, rounding.AT_ONCE], ids=["code by code", "at once"])
def _at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "AT_ONCE", request.param)


@pytest.mark.usefixtures("_at_once")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=40), st.lists(st.integers(0, 4), min_size=5))
def test_a_contested_code_goes_to_those_who_would_regret_most(asks: list[tuple[int, int]], room: list[int]) -> None:
    """Against sorting each code's askers: most regret first, then order of tie key."""
    code = np.array([code for code, _ in asks], np.int32)
    regret = np.array([regret for _, regret in asks], np.float32)
    left = np.array(room[:5], np.int64)
    accepted, refused = accept(code, regret, left, None, np.arange(len(asks)))
    expected = set()
    for number in range(5):
        askers = [row for row, (asked, _) in enumerate(asks) if asked == number]
        expected |= set(sorted(askers, key=lambda row: -asks[row][1])[: room[number]])
    assert set(np.flatnonzero(accepted).tolist()) == expected
    assert not refused.any()
    assert left.tolist() == [room[at] - sum(asks[row][0] == at for row in expected) for at in range(5)]


@given(st.lists(st.integers(0, 3) | st.integers(2**62, 2**64 - 1) | st.integers(0, 2**62), max_size=40))
@example([2**63, 1])
def test_rows_are_put_in_order_of_key_and_then_of_row_however_long_the_keys_are(drawn: list[int]) -> None:
    keys = np.array(drawn, np.uint64)
    expected = sorted(range(len(drawn)), key=lambda row: (drawn[row], row))
    assert _sorted_rows(keys).tolist() == expected
    assert _sorted_rows(keys).dtype == np.int64


@pytest.mark.usefixtures("_at_once")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30),
    st.lists(st.integers(0, 6), min_size=4, max_size=4),
    st.integers(0, 40),
    st.sampled_from([1, 2, 4]),
)
# The item that its node refuses takes no place of its code.
@example([(0, 0, 3), (0, 0, 2), (1, 0, 1), (2, 0, 0)], [2, 0, 0, 0], 0, 1)
# Two items find place below one node.
@example([(0, 0, 3), (0, 0, 2), (0, 0, 1)], [3, 0, 0, 0], 0, 2)
def test_a_node_takes_those_who_would_regret_most_and_a_code_of_them_as_many_as_it_has_room_for(
    asks: list[tuple[int, int, int]], room: list[int], taken: int, below: int
) -> None:
    """Against sorting, first the askers of each node, then of these those of each code; who a node refused is told."""
    prefix = np.array([[home] for home, _, _ in asks], np.int32)
    code, regret = (np.array([ask[at] for ask in asks]) for at in (1, 2))
    sizes = {1: (3, 4), 2: (3, 4, 2), 4: (3, 4, 2, 2)}[below]
    draw = np.random.default_rng(taken)
    cells = np.stack(np.unravel_index(draw.permutation(np.prod(sizes))[:taken], sizes), axis=1).astype(np.int32)
    nodes, left = PrefixCapacity(prefix, cells, sizes, np.ones(sizes[-1], np.bool_)), np.array(room, np.int64)
    if not nodes.binding:
        return
    free = np.full((3, 4), below)
    np.subtract.at(free, (cells[:, 0], cells[:, 1]), 1)
    all_open = all(free[ask[:2]] > 0 for ask in asks)
    rows = np.arange(len(asks))
    accepted, refused = accept(code.astype(np.int32), regret.astype(np.float32), left, nodes, rows, all_open)
    kept: list[int] = []
    for node in {ask[:2] for ask in asks}:
        askers = sorted((row for row, ask in enumerate(asks) if ask[:2] == node), key=lambda row: (-regret[row], row))
        kept += askers[: free[node]]
    served: list[int] = []
    for number in range(4):
        askers = sorted((row for row in kept if code[row] == number), key=lambda row: (-regret[row], row))
        served += askers[: room[number]]
    assert np.flatnonzero(accepted).tolist() == sorted(served)
    assert np.flatnonzero(refused).tolist() == sorted(set(range(len(asks))) - set(kept))
    assert left.tolist() == [room[at] - sum(code[row] == at for row in served) for at in range(4)]
    keys = nodes.key(nodes.home, code)
    held = {node: sum(asks[row][:2] == node for row in served) for node in {ask[:2] for ask in asks}}
    order = np.argsort(keys, kind="stable")
    assert nodes.left(keys[order]).tolist() == [free[asks[row][:2]] - held[asks[row][:2]] for row in order]


def test_a_code_has_room_for_what_its_capacity_leaves_and_never_for_less_than_nobody() -> None:
    """More may be there than its capacity where a codebook was refitted."""
    left = room_left((3, 5), [np.array([0, 2, 3, 4]), np.array([5, 1])])
    assert [each.tolist() for each in left] == [[3, 1, 0, 0], [0, 4]]


def test_who_lost_a_former_level_asks_for_nothing_and_gets_nothing() -> None:
    vectors, points = skewed(40, 5, 3, 1)
    prefix = np.zeros((40, 1), np.int32)
    prefix[::4] = -1
    items = Items({"": ArrayRows(vectors)}, tie_keys([str(row) for row in range(40)]))
    level = CentroidLevel(Residual("", ()), points)
    found = assign_level(level, items, prefix, np.full(5, 40), LOCAL_THREADS)
    assert (found.codes[::4] == -1).all()
    assert (found.first[::4] == -1).all()
    rest = prefix[:, 0] == 0
    expected = dense_cost(vectors, points).argmin(axis=1)
    np.testing.assert_array_equal(found.codes[rest], expected[rest])
    np.testing.assert_array_equal(found.first[rest], expected[rest])


@pytest.mark.parametrize(("list_rows", "ask_rows"), [(1, 1), (7, 3), (64, 10**6)])
def test_how_many_rows_are_looked_at_together_changes_no_code(
    list_rows: int, ask_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, points = skewed(120, 12, 3, 5)
    ties, capacity = tie_keys([str(row) for row in range(120)]), np.full(12, 10)
    whole = balanced_assign(vectors, points, capacity, ties)
    monkeypatch.setattr(assignment, "LIST_ROWS", list_rows)
    monkeypatch.setattr(assignment, "BID_ROWS", ask_rows)
    np.testing.assert_array_equal(balanced_assign(vectors, points, capacity, ties).codes, whole.codes)


@pytest.mark.parametrize("codes", [1, 2, 255, 256, 257])
def test_each_of_as_many_items_as_codes_gets_one_of_its_own_however_wide_a_code_is(codes: int) -> None:
    """All in one place, so that nearly all of them look further; 257 codes do not fit in a byte."""
    points = np.arange(codes, dtype=np.float32)[:, None]
    vectors = np.full((codes, 1), codes / 2, np.float32)
    ties = tie_keys([str(row) for row in range(codes)])
    assert sorted(balanced_assign(vectors, points, np.ones(codes, np.int64), ties).codes) == list(range(codes))
