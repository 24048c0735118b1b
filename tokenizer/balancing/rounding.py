"""Selection of items for contested codes: greatest regret first, then tie key. Rows are in tie-key order."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.types import Bools, Floats
from tokenizer.balancing.prefix_capacity import PrefixCapacity

AT_ONCE = 1 << 20
"""Items among which is selected at a time: each takes some 60 bytes."""


def accept(
    code_N: NDArray[np.int32],
    regret_N: Floats,
    room_K: NDArray[np.int64],
    prefixes: PrefixCapacity | None,
    rows: NDArray[np.int64],
    all_open: bool = False,
) -> tuple[Bools, Bools]:
    """Select which of the items `rows` get the code they ask for, and which their node refuses.

    A node takes no more items than the SIDs left below it, a code no more than its room. Reduces `room_K` and takes
    from `prefixes`. With `all_open`, every node asked for has a free SID, so nodes of the last level need no look-up.
    Items that ask for different codes do not compete, so of many items those of some codes are selected at a time.
    """
    if len(code_N) <= AT_ONCE:
        return _accept(code_N, regret_N, room_K, prefixes, rows, all_open)
    accepted, refused = np.zeros(len(code_N), np.bool_), np.zeros(len(code_N), np.bool_)
    for some in _by_codes(code_N, len(room_K)):
        chosen = code_N[some], regret_N[some], room_K, prefixes, rows[some], all_open
        accepted[some], refused[some] = _accept(*chosen)
    return accepted, refused


def _by_codes(code_N: NDArray[np.int32], codes: int) -> Iterator[NDArray[np.int64]]:
    """Yield the items of consecutive codes, AT_ONCE at the most or those of one code."""
    asked = np.cumsum(np.bincount(code_N, minlength=codes))
    low, done = 0, 0
    while low < codes:
        high = max(low + 1, int(np.searchsorted(asked, done + AT_ONCE, side="right")))
        some = np.flatnonzero((code_N >= low) & (code_N < high))
        if len(some):
            yield some
        low, done = high, int(asked[high - 1])


def _accept(
    code_N: NDArray[np.int32],
    regret_N: Floats,
    room_K: NDArray[np.int64],
    prefixes: PrefixCapacity | None,
    rows: NDArray[np.int64],
    all_open: bool,
) -> tuple[Bools, Bools]:
    accepted = np.ones(len(code_N), np.bool_)
    refused = np.zeros(len(code_N), np.bool_)
    keys = np.zeros(0, np.uint64)
    if prefixes is not None:
        keys = prefixes.key(prefixes.home[rows], code_N)
        order = _sorted_rows(keys)
        first, count = _groups(keys[order])
        each_has_one = all_open and prefixes.below == 1
        left = np.ones(len(first), np.int64) if each_has_one else prefixes.left(keys[order[first]])
        del first
        tight = count > left
        losers = _beyond(order[np.repeat(tight, count)], count[tight], regret_N, left[tight])
        del order
        accepted[losers] = False
        refused[losers] = True
    asked = np.bincount(code_N[accepted], minlength=len(room_K))
    tight_code = asked > room_K
    if tight_code.any():
        contested = np.flatnonzero(accepted & tight_code[code_N])
        by_code = contested[np.argsort(code_N[contested], kind="stable")]
        first, count = _groups(code_N[by_code])
        accepted[_beyond(by_code, count, regret_N, room_K[code_N[by_code[first]]])] = False
    room_K -= np.bincount(code_N[accepted], minlength=len(room_K))
    if prefixes is not None:
        prefixes.take(keys[accepted])
    return accepted, refused


def _groups(ordered: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the start of each run of equal values, and its length."""
    new = np.ones(len(ordered), np.bool_)
    new[1:] = ordered[1:] != ordered[:-1]
    first = np.flatnonzero(new)
    count = np.empty_like(first)
    np.subtract(first[1:], first[:-1], out=count[:-1])
    count[-1:] = len(ordered) - first[-1:]
    return first, count


def _beyond(
    items: NDArray[np.int64], count: NDArray[np.int64], regret_N: Floats, limit: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the items that are not among the `limit` of their group with the greatest regret.

    `items` are grouped, `count` of each group, and in order of tie key within a group; no group is empty.
    """
    if not len(items):
        return items
    regret, first = regret_N[items], np.cumsum(count) - count
    loses = np.ones(len(items), np.bool_)
    # Most groups keep one item: the first of those with the greatest regret.
    best = np.repeat(np.maximum.reduceat(regret, first), count) == regret
    winner = np.minimum.reduceat(np.where(best, np.arange(len(items)), len(items)), first)
    loses[winner[limit > 0]] = False
    more = limit > 1
    if more.any():
        part = np.flatnonzero(np.repeat(more, count))
        group = np.repeat(np.arange(np.count_nonzero(more)), count[more])
        order = np.lexsort((-regret[part], group))
        rank = np.arange(len(part)) - np.repeat(np.cumsum(count[more]) - count[more], count[more])
        loses[part[order]] = rank >= np.repeat(limit[more], count[more])
    return items[loses]


def _sorted_rows(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return rows sorted by key, then row. Packed into one number, if both fit, this is 4 to 10 times as fast."""
    row_bits = max(len(keys) - 1, 0).bit_length()
    if len(keys) and int(keys.max()).bit_length() + row_bits <= 64:
        packed = keys << np.uint64(row_bits)
        packed |= np.arange(len(keys), dtype=np.uint64)
        packed.sort()
        packed &= np.uint64((1 << row_bits) - 1)
        return packed.view(np.int64)
    return np.argsort(keys, kind="stable")
