"""A depth-first search for SIDs of the few items whose prefix has no free SID under a code with room."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.sid_keys import sid_keys
from tokenizer.arrays.types import Codes, Floats
from tokenizer.arrays.vectors import SPAN, Block, Items
from tokenizer.balancing.costs import Level
from tokenizer.codebook import Codebook
from tokenizer.registry import quantizer_of

Prefix = tuple[int, ...]


def find_nearest_free_sids(
    codebook: Codebook,
    items: Items,
    in_turn: NDArray[np.int64],
    codes_UL: Codes,
    room: Sequence[NDArray[np.int64]],
    settled_ML: Codes,
) -> Codes:
    """Return SIDs (U, L) that are free and have room at each level, -1 in all levels if none is left.

    Each of the items `in_turn` tries its own codes first, then the next cheapest, backtracking from the last level.
    Reduces `room` in place. SIDs are only ever taken, so a full prefix stays full and is searched once for any number
    of items.
    """
    levels = [quantizer_of(codebook.spec).level(codebook, level) for level in range(codebook.levels)]
    search = _Search(levels, codebook.sizes, room, settled_ML)
    placed_UL = np.full_like(codes_UL, -1)
    for start in range(0, len(in_turn), SPAN):
        rows = in_turn[start : start + SPAN]
        together = items.take(rows, codes_UL[start : start + SPAN, :0])
        for row in range(len(rows)):
            own = together.part(slice(row, row + 1))
            sid = search.nearest_free((), own, tuple(codes_UL[start + row].tolist()))
            if sid is not None:
                search.take(sid)
                placed_UL[start + row] = sid
    return placed_UL


class _Search:
    def __init__(
        self, levels: list[Level], sizes: Sequence[int], room: Sequence[NDArray[np.int64]], settled_ML: Codes
    ) -> None:
        self.levels, self.sizes, self.room = levels, sizes, room
        keys = sid_keys(settled_ML[:, :-1], sizes[:-1])
        order = np.argsort(keys, kind="stable")
        self.settled_keys, self.settled_last = keys[order], settled_ML[order, -1]
        self.taken: dict[Prefix, NDArray[np.bool_]] = {}
        self.full: set[Prefix] = set()

    def nearest_free(self, prefix: Prefix, item: Block, home: Prefix) -> Prefix | None:
        """Return the first free SID under `prefix`; codes are tried by cost, those of `home` first."""
        if prefix in self.full:
            return None
        level = len(prefix)
        at_last = level == len(self.levels) - 1
        closed = self.room[level] <= 0
        if at_last:
            closed = closed | self.taken_under(prefix)
        if not closed.all():
            cost = self._cost(prefix, item)
            cost[closed] = np.inf
            if at_last:
                return (*prefix, int(cost.argmin()))
            if prefix == home[:level] and home[level] >= 0 and not closed[home[level]]:
                cost[home[level]] = -np.inf
            for code in np.argsort(cost, kind="stable")[: np.count_nonzero(~closed)].tolist():
                sid = self.nearest_free((*prefix, code), item, home)
                if sid is not None:
                    return sid
        self.full.add(prefix)
        return None

    def take(self, sid: Prefix) -> None:
        for level, code in enumerate(sid):
            self.room[level][code] -= 1
        self.taken_under(sid[:-1])[sid[-1]] = True

    def taken_under(self, prefix: Prefix) -> NDArray[np.bool_]:
        if prefix not in self.taken:
            key = sid_keys(np.array([prefix], np.int32).reshape(1, -1), self.sizes[:-1])
            start, stop = (int(np.searchsorted(self.settled_keys, key, side)[0]) for side in ("left", "right"))
            self.taken[prefix] = np.zeros(self.sizes[-1], bool)
            self.taken[prefix][self.settled_last[start:stop]] = True
        return self.taken[prefix]

    def _cost(self, prefix: Prefix, item: Block) -> Floats:
        at = Block(item.vectors, item.ties, np.array([prefix], np.int32).reshape(1, -1))
        ((_, cost),) = self.levels[len(prefix)].costs(at)
        return np.array(cost[0])
