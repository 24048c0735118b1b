"""Assignment of free SIDs to vectors, level by level, within the capacity left of codes and prefixes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from learning.threads import one_thread
from tokenizer.arrays.executor import LOCAL_THREADS, Executor
from tokenizer.arrays.items import ItemIds, checked_items
from tokenizer.arrays.sid_keys import check_codes, sid_keys
from tokenizer.arrays.types import Array, Codes
from tokenizer.arrays.vectors import Items, Rows
from tokenizer.balancing.assign_level import assign_level, room_left
from tokenizer.balancing.prefix_capacity import PrefixCapacity
from tokenizer.code_usage import level_load
from tokenizer.codebook import Codebook
from tokenizer.collisions.extra_token import extra_tokens
from tokenizer.collisions.relocate import find_nearest_free_sids
from tokenizer.metrics import DistributionShift, EncodingErrors, distribution_shift, encoding_errors
from tokenizer.registry import quantizer_of

STUCK = 1 << 18
"""Items placed again at once; their vectors are held in memory."""
SHIFT_ROWS = 1 << 12
"""Items used to measure the distance from the fit, the first by tie key."""


class Status(IntEnum):
    """The outcome of an item."""

    ASSIGNED = 0
    RELOCATED = 1
    REFIT_DUE = 2

    @property
    def label(self) -> str:
        """The status in words: "assigned", "relocated" or "refit due"."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Occupancy:
    """All SIDs ever published under a codebook, also of deleted items: int32 (M, L), or (M, L + 1) with a token."""

    codes: NDArray[np.int32]

    @classmethod
    def empty(cls, length: int) -> "Occupancy":
        """Return an occupancy without published SIDs, for SIDs of this length."""
        return cls(np.empty((0, length), np.int32))

    def load(self, codebook: Codebook) -> list[NDArray[np.int64]]:
        """Return SIDs published per code, int64 (K,) for each level."""
        return level_load(check_codes(self.codes, codebook.sizes, "occupied SIDs"), codebook.sizes)


@dataclass(frozen=True)
class FirstChoices:
    """The SIDs that items would have without rivals for them.

    `last` int32 (N,) is the code of the last level, -1 for items that did not reach it. `rows` are items whose other
    codes were changed later too, and `codes` (M, L) are those before.
    """

    last: NDArray[np.int32]
    rows: NDArray[np.int64]
    codes: NDArray[np.int32]

    @classmethod
    def of(cls, codes_NL: Codes) -> "FirstChoices":
        """Return the choices of items that got what they chose."""
        return cls(codes_NL[:, -1], np.empty(0, np.int64), codes_NL[:0])

    def differ(self, codes_NL: Codes) -> NDArray[np.bool_]:
        """Return which items got something else, (N,)."""
        differs: NDArray[np.bool_] = codes_NL[:, -1] != self.last
        differs[self.rows] |= (codes_NL[self.rows, :-1] != self.codes[:, :-1]).any(axis=1)
        return differs


@dataclass(frozen=True)
class Assignment:
    """New SIDs, in input order of the items.

    `codes` int32 (N, L) are unique and free, -1 in all levels for "refit due". `status` int8 (N,) holds `Status`
    values. `errors` covers the items with a SID; `shift` is the distance of the items from those of the fit.
    """

    codes: NDArray[np.int32]
    choices: FirstChoices
    status: NDArray[np.int8]
    errors: EncodingErrors
    shift: DistributionShift | None

    @property
    def raw_codes(self) -> NDArray[np.int32]:
        """First choices, int32 (N, L): an item's SID if SIDs could be shared. -1 for items without a last code."""
        raw_NL = self.codes.copy()
        raw_NL[self.choices.rows] = self.choices.codes
        raw_NL[:, -1] = self.choices.last
        raw_NL[raw_NL[:, -1] < 0] = -1
        return raw_NL

    @property
    def relative_error(self) -> float:
        """sum |x - decoded|^2 / sum |x - mean|^2."""
        return self.errors.relative


def assign_sids(
    codebook: Codebook,
    vectors: Mapping[str, Array | Rows],
    item_ids: ItemIds,
    occupied: Occupancy,
    work: Executor = LOCAL_THREADS,
) -> Assignment:
    """Assign each item a SID that is not occupied (with `keep`, any SID), within the capacity that is left.

    `vectors` are float (N, D), or `Rows`, for each source of the codebook; `item_ids` are N distinct ids. Each level
    encodes the residual of the codes actually chosen before it. A contested code or SID goes to the items with the
    greatest regret (the cost of losing it). A prefix takes no more items than it has SIDs. An item's SID depends on the
    batch and the occupancy, not on the order of either. Raises VectorError for unfit vectors, ValueError for repeated
    ids or occupied codes out of range.
    """
    with one_thread():
        return _assign_sids(codebook, vectors, item_ids, occupied, work)


def checked_sids(
    codebook: Codebook,
    vectors: Mapping[str, Array | Rows],
    item_ids: ItemIds,
    occupied: Occupancy,
    codes_NL: NDArray[np.int32],
    work: Executor = LOCAL_THREADS,
) -> Assignment:
    """Check SIDs from elsewhere (-1: none) by the rules of `assign_sids` and return them as an assignment.

    Raises ValueError if a SID is taken, occurs twice or exceeds a capacity.
    """
    items = checked_items(vectors, item_ids, codebook.sources, work)
    placed = codes_NL[:, -1] >= 0
    taken = np.concatenate([occupied.codes, codes_NL[placed]]).astype(np.int32, copy=False)
    load = Occupancy(taken).load(codebook)
    keys = np.sort(sid_keys(taken, codebook.sizes))
    repeated = not codebook.spec.collision_policy.shares and (keys[1:] == keys[:-1]).any()
    if repeated or any(map(_exceeds, load, codebook.capacity)):
        raise ValueError(
            f"the SIDs given for {len(items)} items of codebook {codebook.id} cannot be used: some are taken or "
            "repeated, or exceed a capacity"
        )
    status = np.where(placed, Status.ASSIGNED, Status.REFIT_DUE).astype(np.int8)
    return _assignment(codebook, items, codes_NL, FirstChoices.of(codes_NL), status, work)


def _assignment(
    codebook: Codebook,
    items: Items,
    codes_NL: Codes,
    choices: FirstChoices,
    status: NDArray[np.int8],
    work: Executor,
) -> Assignment:
    errors = encoding_errors(codebook, items, codes_NL, work)
    shift = distribution_shift(codebook, items.subset(items.order[:SHIFT_ROWS]))
    return Assignment(codes_NL, choices, status, errors, shift)


def _exceeds(load_K: NDArray[np.int64], capacity: int) -> bool:
    return bool((load_K > capacity).any())


def _assign_sids(
    codebook: Codebook, vectors: Mapping[str, Array | Rows], item_ids: ItemIds, occupied: Occupancy, work: Executor
) -> Assignment:
    widths = {source: len(codebook.arrays[f"mean.{source}"]) for source in codebook.sources}
    items = checked_items(vectors, item_ids, codebook.sources, work, widths)
    room = room_left(codebook.capacity, occupied.load(codebook))
    taken = occupied.codes.astype(np.int32, copy=False)
    codes_NL = np.full((len(items), codebook.levels), -1, np.int32)
    policy = codebook.spec.collision_policy
    batch = _Batch(codebook, items, room, work)
    if policy.relocates:
        last = _level_by_level(batch, codes_NL, 0, taken)
        stuck = np.flatnonzero(codes_NL[:, -1] < 0)
        choices = FirstChoices(last, stuck, codes_NL[stuck])
        _place_stuck(batch, codes_NL, taken)
    else:
        _level_by_level(batch, codes_NL, 0, None)
        if policy.token is not None:
            codes_NL = _with_token(codebook, items, codes_NL, taken)
        codes_NL[codes_NL[:, -1] < 0] = -1
        choices = FirstChoices.of(codes_NL)
    status = np.full(len(items), Status.ASSIGNED, np.int8)
    status[choices.differ(codes_NL)] = Status.RELOCATED
    status[codes_NL[:, -1] < 0] = Status.REFIT_DUE
    return _assignment(codebook, items, codes_NL, choices, status, work)


def _with_token(codebook: Codebook, items: Items, codes_NL: Codes, taken: Codes) -> Codes:
    """Return the codes with the token that makes them unique; -1 throughout for items without codes or token."""
    sids_NS = np.full((len(items), codebook.levels + 1), -1, np.int32)
    coded = items.order[codes_NL[items.order, -1] >= 0]
    token = extra_tokens(
        codes_NL[coded], taken, codebook.sizes, per_sid=codebook.spec.collision_policy.token == "per SID"
    )
    placed = coded[token >= 0]
    sids_NS[placed, :-1], sids_NS[placed, -1] = codes_NL[placed], token[token >= 0]
    return sids_NS


@dataclass(frozen=True)
class _Batch:
    """Items to assign, and the room that each code of each level has left, which is reduced in place."""

    codebook: Codebook
    items: Items
    room: list[NDArray[np.int64]]
    work: Executor


def _level_by_level(batch: _Batch, codes_NL: Codes, start: int, taken: Codes | None) -> Codes:
    """Fill in the codes from level `start` on, with -1 from the level that has no room.

    Returns the item's first choice in the last level, (N,). Without `taken`, items may share SIDs.
    """
    first = codes_NL[:, -1]
    for level in range(start, batch.codebook.levels):
        first = _one_level(batch, codes_NL, level, taken)
    return first


def _one_level(batch: _Batch, codes_NL: Codes, level: int, taken: Codes | None) -> Codes:
    """Fill in the codes of a level; return the items' first choices, (N,)."""
    codebook, prefix = batch.codebook, codes_NL[:, :level]
    prefixes = None if taken is None else PrefixCapacity(prefix, taken, codebook.sizes, batch.room[-1] > 0)
    costs = quantizer_of(codebook.spec).level(codebook, level)
    binding = prefixes if prefixes is not None and prefixes.binding else None
    found = assign_level(costs, batch.items, prefix, batch.room[level], batch.work, prefixes=binding)
    codes_NL[:, level] = found.codes
    return found.first


def _place_stuck(batch: _Batch, codes_NL: Codes, taken: Codes) -> None:
    """Place the items whose prefix has free SIDs, but only under codes that are full.

    They give back one level, then two, and so on, and are assigned again from there. The last few are placed one by one
    by a search.
    """
    codebook, items, room = batch.codebook, batch.items, batch.room
    for depth in reversed(range(codebook.levels - 1)):
        stuck = items.order[codes_NL[items.order, -1] < 0]
        while len(stuck) and all(left.any() for left in room):
            for part in (stuck[start : start + STUCK] for start in range(0, len(stuck), STUCK)):
                _release(codes_NL, part, depth, room)
                own = codes_NL[part]
                settled = np.concatenate([taken, codes_NL[codes_NL[:, -1] >= 0]])
                _level_by_level(replace(batch, items=items.subset(part)), own, depth, settled)
                codes_NL[part] = own
            waiting = stuck[codes_NL[stuck, -1] < 0]
            if len(waiting) == len(stuck):
                break
            stuck = waiting
    stuck = items.order[codes_NL[items.order, -1] < 0]
    if len(stuck):
        held = codes_NL[stuck]
        _release(codes_NL, stuck, 0, room)
        settled = np.concatenate([taken, codes_NL[codes_NL[:, -1] >= 0]])
        codes_NL[stuck] = find_nearest_free_sids(codebook, items, stuck, held, room, settled)


def _release(codes_NL: Codes, rows: NDArray[np.int64], depth: int, room: list[NDArray[np.int64]]) -> None:
    """Release the codes of some items from level `depth` on."""
    for level in range(depth, len(room)):
        held = codes_NL[rows, level]
        room[level] += np.bincount(held[held >= 0], minlength=len(room[level]))
    codes_NL[rows, depth:] = -1
