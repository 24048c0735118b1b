"""Assignment of codes within the capacity of each code, at nearly the least total cost.

Alg. 1 of OneRec (arXiv 2502.18965) fills centroids one after the other and costs about 20 % over the optimum. Prices
(optimal transport duals), then rounding by regret, cost about 1 %. Items are read span by span. A first pass finds each
item's two cheapest codes at the prices; only items whose first choice is taken are read again, with a list of codes.
Memory is a few numbers per item, never N x K.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learning.threads import one_thread
from tokenizer.arrays.distance import cheapest
from tokenizer.arrays.executor import LOCAL_THREADS, Executor, map_on_cores
from tokenizer.arrays.types import Codes, Floats
from tokenizer.arrays.vectors import LEAD, ArrayRows, Block, Items, pieces
from tokenizer.balancing.costs import CentroidLevel, Level, Residual
from tokenizer.balancing.prefix_capacity import FullCodes, PrefixCapacity
from tokenizer.balancing.prices import FROM_NOTHING, FROM_SAMPLE, FROM_SIMILAR, CandidateCodes, Cooling, settle_prices
from tokenizer.balancing.rounding import accept

PRICE_ROWS = 4096
PRICE_ROWS_PER_CODE = 32
"""The small sample that prices are computed on has the larger of PRICE_ROWS and this number for each code."""
REFINE_ROWS = LEAD
"""Items of the large sample."""
LOOKUPS = 3
"""Times that candidates are looked up on the small sample."""
LIST, SHORT_LIST = 48, 16
"""Longest list of cheapest codes of an item, and the length that is kept however many items wait."""
LIST_CELLS = 1 << 25
"""Costs held at once: entries of all lists, or items times codes of a task."""
LIST_ROWS = 1 << 14
"""Most items of a task that makes lists."""
BID_ROWS = 1 << 14
"""Items that a thread moves along their lists at a time."""
LARGEST = np.finfo(np.float32).max
BIT_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").view(np.bool_)
OCTETS = np.where(BIT_SET, np.float32(np.inf), np.float32(0))
"""Costs added for each byte of a bitmap of closed codes; 4 times as fast as setting them by a mask."""
ROOMY = 0.7
"""Share of the room that a sample may demand before prices are computed."""

Room = NDArray[np.int64]
Prices = NDArray[np.float64]


@dataclass(frozen=True)
class LevelCodes:
    """The result of an assignment: codes int32 (N,), -1 where there was no room.

    `first` is each item's first choice: the cheapest code at the prices that had room before the assignment. `prices`
    (K,) are the prices used.
    """

    codes: Codes
    first: Codes
    prices: Prices


def assign_level(
    level: Level,
    items: Items,
    prefix_Nl: Codes,
    room_K: Room,
    work: Executor,
    *,
    prefixes: PrefixCapacity | None = None,
    price_K: Prices | None = None,
) -> LevelCodes:
    """Give each item a code of one level.

    It is the cheapest code if neither room nor prefixes bind. `prefix_Nl` are the codes so far, in item order; a row
    without codes (-1) gets none. `room_K` is the number of items each code still takes, and is reduced in place.
    `price_K` are the prices of an earlier, similar assignment. The order of the items changes no code.
    """
    reached: NDArray[np.bool_] = np.all(prefix_Nl >= 0, axis=1)
    alive = items.order if reached.all() else items.order[reached[items.order]]
    if not len(alive) or not room_K.any():
        none = np.full(len(items), -1, np.int32)
        return LevelCodes(none, none.copy(), np.zeros(level.codes))
    prices = _prices(level, items, prefix_Nl, alive, room_K, price_K)
    closed = np.where(room_K > 0, prices, np.inf).astype(np.float32)
    tasks = ((start, stop, prefix_Nl[start:stop]) for start, stop in pieces(len(items)))
    found = list(work.map(partial(_two_cheapest, level, closed), items, tasks))
    first_N = np.concatenate([code for code, _ in found])
    regret_N = np.concatenate([regret for _, regret in found])
    del found
    accepted, _ = accept(first_N[alive], regret_N[alive], room_K, prefixes, alive)
    del regret_N
    waiting = alive[~accepted]
    first_N[~reached] = -1
    codes_N = first_N.copy()
    codes_N[waiting] = -1
    while len(waiting) and room_K.any():
        late = _Waiting(items, prefix_Nl, waiting, None if prefixes is None else FullCodes(prefixes, waiting))
        lists = _lists(level, late, np.where(room_K > 0, prices, np.inf).astype(np.float32), work)
        got = _from_lists(lists, late, room_K, prefixes)
        placed = got >= 0
        codes_N[waiting[placed]] = got[placed]
        waiting = waiting[got == WAITS]
    return LevelCodes(codes_N, first_N, prices)


def balanced_assign(
    vectors_ND: Floats, points_KD: Floats, capacity_K: Room, ties_N: NDArray[np.uint64], work: Executor = LOCAL_THREADS
) -> LevelCodes:
    """Assign vectors to points, of which point k takes at most `capacity_K[k]`."""
    items, whole = Items({"": ArrayRows(vectors_ND)}, ties_N), np.empty((len(ties_N), 0), np.int32)
    level = CentroidLevel(Residual("", ()), points_KD)
    with one_thread():
        return assign_level(level, items, whole, np.array(capacity_K, np.int64), work)


def _two_cheapest(
    level: Level, price_K: Floats, items: Items, start: int, stop: int, prefix: Codes
) -> tuple[Codes, Floats]:
    """Return the cheapest code of each row of a span, and the extra cost of the second cheapest."""
    block = items.read(start, stop, prefix)
    code_n, regret_n = np.empty(len(block), np.int32), np.empty(len(block), np.float32)
    for rows, cost in level.costs(block):
        priced = cost + price_K
        best = priced.argmin(axis=1)
        here = np.arange(len(best))
        least = priced[here, best]
        priced[here, best] = np.inf
        code_n[rows] = best
        regret_n[rows] = priced.min(axis=1) - least if level.codes > 1 else np.inf
    return code_n, regret_n


WAITS = -2
"""Marks an item whose list is used up while codes are left."""


@dataclass(frozen=True)
class _Waiting:
    """Items that wait for a code: their `rows` (U,) among `items`, in order of tie key, and codes closed to them.

    `prefixes` (N, l) are the codes so far of all items.
    """

    items: Items
    prefixes: Codes
    rows: NDArray[np.int64]
    closed: FullCodes | None

    def part(self, some: NDArray[np.int64]) -> tuple[NDArray[np.int64], Codes, NDArray[np.uint8] | None]:
        """Return rows, codes so far and bits of closed codes of some of them."""
        rows = self.rows[some]
        return rows, self.prefixes[rows], None if self.closed is None else self.closed.bits(some)


@dataclass(frozen=True)
class _Lists:
    """The cheapest open codes of each waiting item, in order, and their priced costs, both (U, T).

    Costs are infinite at the end of a list.
    """

    costs: Floats
    codes: NDArray[Any]


def _lists(level: Level, waiting: _Waiting, price_K: Floats, work: Executor) -> _Lists:
    """Return lists of the items that wait; a code without room has an infinite price."""
    rows = waiting.rows
    in_file_order = np.argsort(rows, kind="stable")
    width = min(level.codes, int(np.clip(LIST_CELLS // len(rows), SHORT_LIST, LIST)))
    most = max(1, min(LIST_ROWS, LIST_CELLS // level.codes))
    pieces = [in_file_order[start : start + most] for start in range(0, len(rows), most)]
    cost_UT = np.empty((len(rows), width), np.float32)
    code_UT = np.empty((len(rows), width), np.min_scalar_type(level.codes - 1))
    task = _CheapestCodes(level, price_K, width)
    for piece, (cost, code) in zip(pieces, work.map(task, waiting.items, map(waiting.part, pieces)), strict=True):
        cost_UT[piece], code_UT[piece] = cost, code
    return _Lists(cost_UT, code_UT)


def _from_lists(lists: _Lists, waiting: _Waiting, room_K: Room, prefixes: PrefixCapacity | None) -> Codes:
    """Assign waiting items in rounds over their lists.

    Returns a code, -1 if no code is open to the item, WAITS if all codes on its list went to others.
    """
    rows, closed, cost_UT, code_UT = waiting.rows, waiting.closed, lists.costs, lists.codes
    open_K, at_U = room_K > 0, np.zeros(len(rows), np.int32)
    got = np.full(len(rows), WAITS, np.int32)
    got[~np.isfinite(cost_UT[:, 0])] = -1
    bidding = np.flatnonzero(got == WAITS)
    while len(bidding):
        parts = [bidding[start : start + BID_ROWS] for start in range(0, len(bidding), BID_ROWS)]
        bids = map_on_cores(partial(_current_bid, cost_UT, code_UT, at_U, open_K & (room_K <= 0), closed), parts)
        bid_codes, regret = (np.concatenate([bid[part] for bid in bids]) for part in range(2))
        open_ = np.isfinite(regret)
        bidding, bid_codes, regret = bidding[open_], bid_codes[open_], regret[open_]
        accepted, refused = accept(bid_codes, regret, room_K, prefixes, rows[bidding], all_open=True)
        at_U[bidding[refused]] += 1
        got[bidding[accepted]] = bid_codes[accepted]
        if closed is not None:
            closed.promised(bidding[accepted], bid_codes[accepted])
        bidding = bidding[~accepted]
    return got


def _current_bid(
    cost_UT: Floats,
    code_UT: NDArray[Any],
    at_U: Codes,
    gone_K: NDArray[np.bool_],
    closed: FullCodes | None,
    rows: NDArray[np.int64],
) -> tuple[Codes, Floats]:
    """Return the current code on each row's list, and the regret: the extra cost of the next one on the list.

    Codes that are full, or closed to the row, are skipped. The regret is at most the largest float32, and infinite only
    at the end of the list. Advances `at_U`.
    """
    width = cost_UT.shape[1]
    costs, codes, start = cost_UT.ravel(), code_UT.ravel(), rows * width

    def is_closed(some: NDArray[np.int64], at: Codes) -> NDArray[np.bool_]:
        code = codes[start[some] + at[some]]
        gone: NDArray[np.bool_] = gone_K[code]
        return gone if closed is None else gone | closed(rows[some], code)

    def passed(at: Codes) -> Codes:
        if closed is not None or gone_K.any():
            stay = np.flatnonzero(at < width)
            while len(stay := stay[is_closed(stay, at)]):
                at[stay] += 1
                stay = stay[at[stay] < width]
        return at

    def cost(at: Codes) -> Floats:
        return np.where(at < width, costs[start + np.minimum(at, width - 1)], np.float32(np.inf))

    first = passed(at_U[rows])
    at_U[rows] = first
    least = cost(first)
    regret = np.minimum(cost(passed(first + 1)), LARGEST) - least
    regret[~np.isfinite(least)] = np.inf
    return codes[start + np.minimum(first, width - 1)].astype(np.int32), regret


@dataclass(frozen=True)
class _CheapestCodes:
    """A task: the `width` cheapest codes of some rows, in order, with their priced costs."""

    level: Level
    prices: Floats
    width: int

    def __call__(
        self, items: Items, rows: NDArray[np.int64], prefix: Codes, closed: NDArray[np.uint8] | None
    ) -> tuple[Floats, Codes]:
        """Costs and codes, both (u, width); costs are infinite where a bit of `closed` is set."""
        shape = len(rows), self.width
        cost_uT, code_uT = np.empty(shape, np.float32), np.empty(shape, np.int32)
        for part, cost in self.level.costs(items.take(rows, prefix)):
            priced = cost + self.prices
            if closed is not None:
                priced += OCTETS.take(closed[part], axis=0).reshape(len(priced), -1)[:, : self.level.codes]
            cost_uT[part], code_uT[part] = cheapest(priced, self.width)
        return cost_uT, code_uT


def _prices(
    level: Level, items: Items, prefix_Nl: Codes, alive: NDArray[np.int64], room_K: Room, price_K: Prices | None
) -> Prices:
    """Return prices settled on a small sample and refined on a larger one, both the first items by tie key.

    Codes without room are left out. Prices are 0 if demand already fits the room. Candidates are looked up again at the
    new prices, because in skewed data the codes with room are not among the nearest. Former prices need one look-up.
    """
    prices = np.zeros(level.codes)
    if (room_K[room_K > 0] >= len(alive)).all():
        return prices
    few_rows = max(PRICE_ROWS, PRICE_ROWS_PER_CODE * level.codes)
    small = items.first(alive, prefix_Nl, few_rows)
    open_codes = np.flatnonzero(room_K > 0)
    room = room_K[open_codes].astype(np.float64)

    def settle(seen: Block, start: Prices, cooling: Cooling) -> Prices:
        share = room * (len(seen) / len(alive))
        return settle_prices(_candidates(level, seen, open_codes, start), share, start, cooling)

    if price_K is None or not price_K.any():
        price_K = None
        seen = small if len(alive) > REFINE_ROWS else items.first(alive, prefix_Nl, REFINE_ROWS)
        share = room if len(seen) == len(alive) else ROOMY * room * (len(seen) / len(alive))
        if (_demand(level, seen, open_codes) <= share).all():
            return prices
    former = None if price_K is None else price_K[open_codes]
    if former is not None:
        found = settle(small, former, FROM_SIMILAR)
    else:
        found = settle(small, np.zeros(len(open_codes)), FROM_NOTHING)
        if len(alive) > few_rows or _width(len(alive), len(open_codes)) < len(open_codes):
            for _ in range(LOOKUPS - 1):
                found = settle(small, found, FROM_SIMILAR)
            found = settle(items.first(alive, prefix_Nl, REFINE_ROWS), found, FROM_SAMPLE)
    prices[open_codes] = found
    return prices


def _demand(level: Level, block: Block, open_codes: NDArray[np.int64]) -> Room:
    demand = np.zeros(len(open_codes), np.int64)
    for _, cost in level.costs(block):
        demand += np.bincount(cost.take(open_codes, axis=1).argmin(axis=1), minlength=len(open_codes))
    return demand


def _width(items: int, codes: int) -> int:
    return min(codes, max(LIST, (1 << 19) // max(items, 1)))


def _candidates(level: Level, block: Block, open_codes: NDArray[np.int64], prices: Prices) -> CandidateCodes:
    """Return the cheapest open codes per item at the given prices, in code order; fewer codes for more items."""
    width = _width(len(block), len(open_codes))
    price = prices.astype(np.float32)

    def of(part: Block) -> CandidateCodes:
        cost_nT, code_nT = np.empty((len(part), width), np.float32), np.empty((len(part), width), np.int32)
        beyond_n = np.full(len(part), np.inf, np.float32)
        for rows, every in level.costs(part):
            cost = every.take(open_codes, axis=1)
            priced, code = cheapest(cost + price, width)
            code_nT[rows] = np.sort(code, axis=1)
            cost_nT[rows] = np.take_along_axis(cost, code_nT[rows], axis=1)
            if width < len(open_codes):
                beyond_n[rows] = priced[:, -1]
        return CandidateCodes(cost_nT, code_nT, beyond_n)

    found = map_on_cores(of, [block.part(slice(at, at + PRICE_ROWS)) for at in range(0, len(block), PRICE_ROWS)])
    return CandidateCodes(
        np.concatenate([part.cost for part in found]),
        np.concatenate([part.code for part in found]),
        np.concatenate([part.beyond for part in found]),
    )


def room_left(capacity: Sequence[int], load: Sequence[NDArray[np.int64]]) -> list[Room]:
    """Return the remaining room of each code, per level."""
    return [np.maximum(most - used, 0) for most, used in zip(capacity, load, strict=True)]
