"""Assign codes so that no code takes more items than it has room for, at nearly the least total distance.

Alg. 1 of OneRec (arXiv 2502.18965) fills centroids one after the other and costs about 20 % over the optimum;
prices (optimal transport duals) and then rounding by regret cost about 1 %. Memory is N x candidates, never N
x K.
"""

import numpy as np
from numpy.typing import NDArray

from tokenizer.distance import Floats, distance_blocks
from tokenizer.items import tie_keys
from tokenizer.prices import FROM_NOTHING, FROM_SAMPLE, FROM_SIMILAR, Candidates, Cooling, settle_prices

__all__ = ["assign_in_order", "balanced_assign", "nearest", "tie_keys"]

CANDIDATES = 48
CANDIDATE_CELLS = 1 << 19
SAMPLE_ROWS = 4096
SAMPLE_ROWS_PER_CODE = 32
LOOKS = 3
REFINE_ROWS = 1 << 16


def nearest(vectors_ND: Floats, centroids_KD: Floats) -> NDArray[np.int32]:
    """The nearest centroid of each vector, int32 (N,); of two at the same distance the lower code."""
    codes_N = np.empty(len(vectors_ND), np.int32)
    for rows, cost in distance_blocks(vectors_ND, centroids_KD):
        codes_N[rows] = cost.argmin(axis=1)
    return codes_N


def balanced_assign(
    vectors_ND: Floats, centroids_KD: Floats, capacity_K: NDArray[np.int64], tie_keys_N: NDArray[np.uint64]
) -> NDArray[np.int32]:
    """Codes int32 (N,) of which code k is given at most `capacity_K[k]` times; -1 where no code had room
    left.

    It is the nearest centroid wherever capacity does not bind. The result of an item does not depend on the
    order of the rows, provided that tie keys are distinct.
    """
    order = np.argsort(tie_keys_N, kind="stable")
    codes_N = np.empty(len(vectors_ND), np.int32)
    codes_N[order], _ = assign_in_order(vectors_ND[order], centroids_KD, capacity_K, None)
    return codes_N


def assign_in_order(
    vectors_ND: Floats,
    centroids_KD: Floats,
    capacity_K: NDArray[np.int64],
    price_K: NDArray[np.float64] | None,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """`balanced_assign` of rows that are in order of tie key already; returns codes and the prices that led
    to them.

    `price_K` are the prices of a former, similar assignment, from which it starts.
    """
    open_codes = np.flatnonzero(capacity_K > 0)
    prices_K = np.zeros(len(centroids_KD))
    if not len(vectors_ND) or not open_codes.size:
        return np.full(len(vectors_ND), -1, np.int32), prices_K
    centroids, room = centroids_KD[open_codes], capacity_K[open_codes].astype(np.int64)
    codes = nearest(vectors_ND, centroids)
    if np.all(np.bincount(codes, minlength=len(room)) <= room):
        return open_codes[codes].astype(np.int32), prices_K
    prices = _settled(vectors_ND, centroids, room, None if price_K is None else price_K[open_codes])
    codes = _rounded(vectors_ND, centroids, room, prices)
    prices_K[open_codes] = prices
    return np.where(codes >= 0, open_codes[codes], -1).astype(np.int32), prices_K


def _settled(
    vectors: Floats, centroids: Floats, room: NDArray[np.int64], former: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Prices settled on a small sample and refined on a larger one, the first rows: they come in order of a hash.

    Candidates are looked up again at the prices found: where data are skewed, the codes with room are not among
    the nearest. On 300k skewed items and 256 codes at slack 1.25 the small sample alone led to 0.5 % over the
    bound that the prices prove, refined to 0.1 %; at exact capacity 9 to 15 % remain. Former prices need
    one look.
    """

    def settle(rows: int, start: NDArray[np.float64], cooling: Cooling) -> NDArray[np.float64]:
        seen = vectors[:rows]
        share = room.astype(np.float64) * (len(seen) / len(vectors))
        return settle_prices(_candidates(seen, centroids, start), share, start, cooling)

    few = max(SAMPLE_ROWS, SAMPLE_ROWS_PER_CODE * len(centroids))
    if former is not None:
        return settle(few, former, FROM_SIMILAR)
    prices = settle(few, np.zeros(len(centroids)), FROM_NOTHING)
    if len(vectors) <= few and _width(len(vectors)) >= len(centroids):
        return prices
    for _ in range(LOOKS - 1):
        prices = settle(few, prices, FROM_SIMILAR)
    return settle(REFINE_ROWS, prices, FROM_SAMPLE)


def _width(items: int) -> int:
    """How many candidates to keep per item: more for fewer items."""
    return max(CANDIDATE_CELLS // max(items, 1), CANDIDATES)


def _candidates(vectors: Floats, centroids: Floats, prices: NDArray[np.float64]) -> Candidates:
    """The cheapest codes per item at the given prices, in code order; fewer for more items."""
    width = min(_width(len(vectors)), len(centroids))
    cost_NT = np.empty((len(vectors), width), np.float32)
    code_NT = np.empty((len(vectors), width), np.int32)
    beyond_N = np.full(len(vectors), np.inf, np.float32)
    price = prices.astype(np.float32)
    for rows, cost in distance_blocks(vectors, centroids):
        code = np.broadcast_to(np.arange(width), (len(cost), width))
        if width < len(centroids):
            priced = cost + price
            code = np.sort(np.argpartition(priced, width - 1, axis=1)[:, :width], axis=1)
            beyond_N[rows] = np.take_along_axis(priced, code, axis=1).max(axis=1)
        code_NT[rows] = code
        cost_NT[rows] = np.take_along_axis(cost, code, axis=1)
    return Candidates(cost_NT, code_NT, beyond_N)


def _rounded(
    vectors: Floats, centroids: Floats, room: NDArray[np.int64], prices: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Whole items in place of shares; items whose candidates are all full search all codes that are not."""
    codes = np.full(len(vectors), -1, np.int32)
    room = room.copy()
    while (waiting := np.flatnonzero(codes < 0)).size and (free := np.flatnonzero(room)).size:
        found = _candidates(vectors[waiting], centroids[free], prices[free])
        left = room[free]
        priced_NT = found.cost + prices[free].astype(np.float32)[found.code]
        local = _by_regret(priced_NT, found.code, left)
        room[free] = left
        codes[waiting] = np.where(local >= 0, free[local], -1)
    return codes


def _by_regret(cost_NT: Floats, code_NT: NDArray[np.int32], room: NDArray[np.int64]) -> NDArray[np.int32]:
    """Rounds in which every item asks for its cheapest open candidate and a code takes those who would regret
    most.

    Regret is what the second cheapest open candidate costs more; of equal regrets the lower tie key wins.
    Reduces `room` in place; -1 for items all of whose candidates are full.
    """
    codes = np.full(len(cost_NT), -1, np.int32)
    waiting = np.arange(len(cost_NT))
    while waiting.size:
        cost = np.where(room[code_NT[waiting]] > 0, cost_NT[waiting], np.float32(np.inf))
        best = cost.argmin(axis=1)
        rows = np.arange(len(waiting))
        price = cost[rows, best]
        reachable = np.isfinite(price)
        cost[rows, best] = np.inf
        regret = cost.min(axis=1)[reachable] - price[reachable]
        waiting, asked = waiting[reachable], code_NT[waiting, best][reachable]
        order = np.lexsort((-regret, asked))
        asked, waiting = asked[order], waiting[order]
        rank = np.arange(len(asked)) - np.searchsorted(asked, asked)
        taken = rank < room[asked]
        codes[waiting[taken]] = asked[taken]
        room -= np.bincount(asked[taken], minlength=len(room))
        waiting = np.sort(waiting[~taken])
    return codes
