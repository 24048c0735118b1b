"""The number of free SIDs below each prefix, which keeps SIDs unique in level-by-level assignment."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.sid_keys import code_bits, sid_keys
from tokenizer.arrays.types import Codes

Keys = NDArray[np.uint64]

AT_ONCE = 1 << 20
"""Full nodes returned at a time."""


class PrefixCapacity:
    """The nodes of one level. A node is a prefix and a code under it.

    A node of the last level is one SID and has room for one item. A higher node has room for as many items as there are
    SIDs below it. So an item with a node always has a free SID there, whatever other items do.
    """

    def __init__(self, prefix_Nl: Codes, occupied_ML: Codes, sizes: Sequence[int], open_K: NDArray[np.bool_]) -> None:
        """Set up the level after `prefix_Nl` of a batch.

        `occupied_ML` are the taken SIDs. `open_K` marks the codes of the last level that have room; for higher levels,
        SIDs that end in other codes do not count as free.
        """
        level = prefix_Nl.shape[1]
        self.codes = sizes[level]
        self.below = 1
        if level < len(sizes) - 1:
            self.below = math.prod(sizes[level + 1 : -1]) * int(np.count_nonzero(open_K))
            if not open_K.all():
                occupied_ML = occupied_ML[open_K[occupied_ML[:, -1]]]
        self.binding = self.below < len(prefix_Nl) + len(occupied_ML)
        self.home = np.zeros(len(prefix_Nl), np.uint64)
        self._occupied = np.zeros(0, np.uint64)
        self._taken: list[Keys] = []
        if not self.binding:
            return
        self.home, occupied_home = _prefix_ids(prefix_Nl, occupied_ML[:, :level], sizes[:level], self.codes)
        self._occupied = self.key(occupied_home, occupied_ML[:, level])
        if (self._occupied[1:] < self._occupied[:-1]).any():
            self._occupied.sort()

    def key(self, home: Keys, code: NDArray[Any]) -> Keys:
        """Return the node of a code under a prefix id."""
        return home * np.uint64(self.codes) + code.astype(np.uint64)

    def left(self, keys: Keys) -> NDArray[np.int64]:
        """Return free SIDs below each node. `keys` are ascending, for a fast search."""
        used = np.zeros(len(keys), np.int64)
        for taken in (self._occupied, *self._taken):
            if len(taken):
                first = np.searchsorted(taken, keys)
                matching = np.flatnonzero(taken[np.minimum(first, len(taken) - 1)] == keys)
                used[matching] += np.searchsorted(taken, keys[matching], "right") - first[matching]
        return self.below - used

    def take(self, keys: Keys) -> None:
        """Reserve one SID below each of these nodes. The array is sorted and kept."""
        keys.sort()
        while self._taken and 2 * len(keys) > len(self._taken[-1]):
            keys = np.concatenate([self._taken.pop(), keys])
            keys.sort()
        self._taken.append(keys)

    def full(self) -> Iterator[Keys]:
        """Yield the nodes without a free SID below, each once, in batches."""
        arrays = [self._occupied, *self._taken]
        if self.below > 1:
            used, count = np.unique(np.concatenate(arrays), return_counts=True)
            arrays = [used[count >= self.below]]
        for array in arrays:
            for start in range(0, len(array), AT_ONCE):
                yield array[start : start + AT_ONCE]


class FullCodes:
    """A bitmap of the codes without a free SID under the prefix of each of some rows, updated on reservation.

    It takes a few bytes per prefix. A million rows are looked up in some milliseconds.
    """

    def __init__(self, prefixes: PrefixCapacity, rows: NDArray[np.int64]) -> None:
        homes, self._place = np.unique(prefixes.home[rows], return_inverse=True)
        self._prefixes, self._rows, self._width = prefixes, rows, -(-prefixes.codes // 8)
        self._bits = np.full(len(homes) * self._width, 0 if prefixes.below > 0 else 255, np.uint8)
        for full in prefixes.full():
            home, code = np.divmod(full, np.uint64(prefixes.codes))
            place = np.searchsorted(homes, home)
            asked = homes[np.minimum(place, len(homes) - 1)] == home
            self._set(place[asked], code[asked])

    def bits(self, at: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the bitmaps (n, ceil(K / 8)) of rows number `at`, lowest bit first."""
        return self._bits.reshape(-1, self._width)[self._place[at]]

    def __call__(self, at: NDArray[np.int64], code: NDArray[Any]) -> NDArray[np.bool_]:
        """Return whether each code is closed to row number `at`."""
        bits = self._bits[self._place[at] * self._width + (code >> 3)]
        return (bits >> (code & 7).astype(np.uint8) & 1).astype(np.bool_)

    def promised(self, at: NDArray[np.int64], code: NDArray[np.int32]) -> None:
        """Close the nodes that are full after rows number `at` got SIDs below these codes."""
        if self._prefixes.below > 1:
            keys = self._prefixes.key(self._prefixes.home[self._rows[at]], code)
            node, one = np.unique(keys, return_index=True)
            full = one[self._prefixes.left(node) <= 0]
            at, code = at[full], code[full]
        self._set(self._place[at], code)

    def _set(self, place: NDArray[np.int64], code: NDArray[Any]) -> None:
        code = code.astype(np.int64)
        np.bitwise_or.at(self._bits, place * self._width + (code >> 3), np.left_shift(1, code & 7).astype(np.uint8))


def _prefix_ids(batch_Nl: Codes, occupied_Ml: Codes, sizes: Sequence[int], codes: int) -> tuple[Keys, Keys]:
    """Return equal numbers for equal prefixes, small enough to append a code in 64 bits."""
    if sum(code_bits([*sizes, codes])) < 64:
        return sid_keys(batch_Nl, sizes), sid_keys(occupied_Ml, sizes)
    both = sid_keys(np.concatenate([batch_Nl, occupied_Ml]), sizes)
    ids = np.unique(both, return_inverse=True)[1].astype(np.uint64)
    return ids[: len(batch_Nl)], ids[len(batch_Nl) :]
