"""Concatenated lists of unequal length, located with little more than one length per list.

List n starts where list n - 1 ends. Stored are the lengths, in the narrowest type, and every BLOCK-th start. Any start
is one of these plus at most BLOCK - 1 lengths.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.types import Array

BLOCK = 16
"""Lists between two stored starts: 4 or 8 bytes for 16 lists, and at most 15 lengths are added to find a start."""


@dataclass(frozen=True, eq=False)
class Ragged:
    """Lengths of n lists, padded with 0 to whole blocks; the start of each block and the end of the last list."""

    lengths: Array
    blocks: Array

    @classmethod
    def of(cls, starts: Array) -> "Ragged":
        """Compress the starts of n lists and the end of the last (n + 1,), ascending from 0."""
        count, total = len(starts) - 1, int(starts[-1])
        lengths = np.diff(starts)
        padded = np.zeros(-(-count // BLOCK) * BLOCK, np.min_scalar_type(int(lengths.max(initial=0))))
        padded[:count] = lengths
        blocks = np.append(starts[:-1:BLOCK], starts[-1])
        return cls(padded, blocks.astype(np.uint32 if total < 1 << 32 else np.uint64))

    def check(self, count: int, total: int, what: str) -> None:
        """Raise ValueError unless the shapes fit `count` lists of `total` elements together."""
        blocks = -(-count // BLOCK)
        if len(self.lengths) != blocks * BLOCK or len(self.blocks) != blocks + 1 or int(self.blocks[-1]) != total:
            raise ValueError(
                f"{what}: {len(self.lengths)} lengths and {len(self.blocks)} blocks do not fit {count} lists"
            )

    def starts(self, lists: Array) -> NDArray[np.int64]:
        """Return the start of each of the lists (M,), int64 (M,); for the number of lists, the end of the last."""
        block, place = np.divmod(lists, BLOCK)
        before = np.zeros((len(lists), BLOCK), self.lengths.dtype)
        inside = np.flatnonzero(place)
        before[inside] = self.lengths.reshape(-1, BLOCK)[block[inside]]
        before *= np.arange(BLOCK) < place[:, None]
        start: NDArray[np.int64] = self.blocks[block].astype(np.int64) + before.sum(axis=1, dtype=np.int64)
        return start

    def all_starts(self, count: int) -> NDArray[np.int64]:
        """Return the starts of all `count` lists and the end of the last, int64 (count + 1,)."""
        starts = np.zeros(count + 1, np.int64)
        np.cumsum(self.lengths[:count], out=starts[1:])
        return starts

    def holders(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the list that contains each of the elements (M,), int64 (M,)."""
        block = np.searchsorted(self.blocks, elements, side="right") - 1
        ends = np.cumsum(self.lengths.reshape(-1, BLOCK)[block], axis=1, dtype=np.int64)
        ends += self.blocks[block].astype(np.int64)[:, None]
        return np.asarray(block * BLOCK + (ends <= elements[:, None]).sum(axis=1), np.int64)


def spans(starts: Array, counts: Array) -> NDArray[np.int64]:
    """Return the numbers starts[i], starts[i] + 1, ..., `counts[i]` of each, concatenated."""
    shift: Array = starts - (np.cumsum(counts) - counts)
    return np.repeat(shift, counts) + np.arange(int(counts.sum()), dtype=np.int64)
