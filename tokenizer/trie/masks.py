"""Masks of the codes that may follow a prefix, for many beams at once, above allowed items only.

A filter is a boolean per item. Nodes without an allowed item below are left out of the arrays. So a filtered
trie has no dead ends, cannot yield an item that is not allowed, and costs no more to search than the whole one.

These arrays are wider than those of the file and faster to index. A level has a bitmask per node if they take at most
BITMASK_BYTES_PER_CHILD: always for up to 256 codes, because 32 bytes are 256 bits.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.ragged import spans
from tokenizer.arrays.types import Array
from tokenizer.trie.trie import Trie, child_under

BITMASK_BYTES_PER_CHILD = 32
"""Most bytes that the bitmasks of a level may take for each of its children."""
END = np.ones(1, np.bool_)
"""Marks the beginning of the first run of equal values, and the end of the last."""


@dataclass(frozen=True, eq=False)
class TrieMasks:
    """The allowed part of a trie. Its nodes are numbered per level as in `Trie`.

    Per level: `starts` (nodes + 1,), the first child of each node; `codes` of the children; `bits` (nodes + 1, ceil(K /
    8)), lowest bit first, with an empty last row for node -1, or None. `rows` (leaves,) are the rows of the trie for
    the nodes after the last level. If items share SIDs, one more level below the SIDs numbers the items of each.
    """

    sizes: tuple[int, ...]
    starts: tuple[NDArray[np.int32], ...]
    codes: tuple[Array, ...]
    bits: tuple[NDArray[np.uint8] | None, ...]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, trie: Trie, allowed: NDArray[np.bool_] | None = None) -> "TrieMasks":
        """Return the part of a trie above the rows that `allowed` (N,) marks, by default all; O(N), once per filter.

        Filters combine by `&` of their booleans. Raises ValueError when `allowed` has another length than the trie.
        """
        is_open = np.ones(len(trie), np.bool_) if allowed is None else np.asarray(allowed, np.bool_)
        if is_open.shape != (len(trie),):
            raise ValueError(f"a filter has shape {is_open.shape} for {len(trie)} items; give one boolean per item")
        rows = np.flatnonzero(is_open)
        levels: list[tuple[NDArray[np.int32], Array, NDArray[np.uint8] | None]] = []
        for level in reversed(range(len(trie.layers))):
            size, codes = trie.layers[level], trie.arrays[f"codes{level}"]
            starts = trie.child_starts(level)
            if not is_open.all():
                codes = codes[is_open]
                starts = np.append(0, np.cumsum(is_open))[starts]
            is_open = starts[1:] > starts[:-1]
            kept = np.append(starts[:-1][is_open], starts[-1]).astype(np.int32)
            # A level always has a node to look up, even if it has no children.
            kept = kept if len(kept) > 1 else np.zeros(2, np.int32)
            levels.append((kept, codes.astype(_code_type(size), copy=False), _bitmasks(kept, codes, size)))
        starts_, codes_, bits_ = zip(*reversed(levels), strict=True)
        return cls(trie.sizes, starts_, codes_, bits_, rows)

    @property
    def levels(self) -> int:
        """Codes per SID."""
        return len(self.sizes)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def parents(self) -> list[NDArray[np.int32]]:
        """Per level the parent of each node, (children,)."""
        return [np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts)) for starts in self.starts]

    def mask(self, level: int, nodes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return a mask of the codes that may follow each node of a level, bool (B, K); none for node -1."""
        bits, size = self.bits[level], self.sizes[level]
        if bits is not None:
            return np.unpackbits(bits[nodes], axis=1, count=size, bitorder="little").view(np.bool_)
        start, stop = self._children(level, nodes)
        allowed = np.zeros((len(nodes), size), np.bool_)
        allowed[np.repeat(np.arange(len(nodes)), stop - start), self.codes[level][spans(start, stop - start)]] = True
        return allowed

    def step(self, level: int, nodes: NDArray[np.int64], codes: NDArray[Any]) -> NDArray[np.int64]:
        """Return the child of each node under its code, int64 (B,); -1 if there is none or the node is -1."""
        return child_under(self.codes[level], *self._children(level, nodes), np.asarray(codes, np.int64))

    @property
    def shares(self) -> bool:
        """True if several items may share a SID."""
        return len(self.starts) > self.levels

    def items(self, sids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of the trie for nodes after the last level (M,), SID by SID, and the number of rows of each.

        Node -1 has none.
        """
        known = sids >= 0
        if not self.shares:
            return self.rows[sids[known]], known.astype(np.int64)
        start, stop = self._children(self.levels, sids)
        return self.rows[spans(start, stop - start)], stop - start

    def sids(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the SIDs that lead to nodes after the last level, (M, L)."""
        codes = np.empty((len(nodes), self.levels), np.int64)
        for level in reversed(range(self.levels)):
            codes[:, level] = self.codes[level][nodes]
            nodes = self.parents[level][nodes].astype(np.int64)
        return codes

    def closed(self, user: NDArray[np.int64], rows: NDArray[np.int64]) -> list[tuple[Array, Array, Array]]:
        """Return, per level, the sorted edges (user, node, code) below which every item is among the user's rows.

        `user` and `rows` (X,) are pairs; rows outside the allowed part are ignored. A beam that takes none of these
        edges never enters a prefix without a result.
        """
        if not len(self):
            return [(user[:0], user[:0], user[:0])] * len(self.starts)
        nodes, node, edges = len(self), rows, []
        if self.rows[-1] >= nodes:  # some items are filtered out
            node = self.rows.searchsorted(rows)
            rows = np.where(self.rows.take(node, mode="clip") == rows, rows, -1)
        known = (rows >= 0) & (rows <= self.rows[-1])
        key = (user * nodes + node)[known]
        key.sort()
        user, node = np.divmod(key[_runs(key)[:-1]], nodes)
        for starts, parents, codes in zip(self.starts[::-1], self.parents[::-1], self.codes[::-1], strict=True):
            parent = parents[node]
            edges.append((user, parent, codes[node]))
            if len(edges) == len(self.starts) or not len(user):  # no edge of a higher level is closed
                break
            # A node is closed if all of its children, which are adjacent, are closed.
            runs = _runs(user * nodes + parent)
            first = runs[:-1]
            above = parent[first]
            full = runs[1:] - first == starts[above + 1] - starts[above]
            user, node = user[first[full]], above[full]
        none: Array = np.zeros(0, np.int64)
        return [(none, none, none)] * (len(self.starts) - len(edges)) + edges[::-1]

    def _children(self, level: int, nodes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        starts, known = self.starts[level], np.asarray(nodes) >= 0
        start = starts[np.where(known, nodes, 0)].astype(np.int64)
        return start, np.where(known, starts[np.where(known, nodes, 0) + 1], start)


def _runs(ascending: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the start of each run of equal numbers, and the end of the last."""
    if not len(ascending):
        return ascending
    changes: NDArray[np.int64] = np.concatenate((END, ascending[1:] != ascending[:-1], END)).nonzero()[0]
    return changes


def _code_type(size: int) -> type[np.generic]:
    """Return the narrowest type that both numpy and torch can index with after widening."""
    return np.uint8 if size <= 1 << 8 else np.int16 if size <= 1 << 15 else np.int32


def _bitmasks(starts: NDArray[np.int32], codes: Array, size: int) -> NDArray[np.uint8] | None:
    nodes, width = len(starts) - 1, -(-size // 8)
    if nodes * width > BITMASK_BYTES_PER_CHILD * max(len(codes), 1):
        return None
    bits = np.zeros((nodes + 1) * width, np.uint8)
    byte = np.repeat(np.arange(nodes) * width, np.diff(starts)) + (codes >> 3)
    np.add.at(bits, byte, np.uint8(1) << (codes & 7).astype(np.uint8))
    return bits.reshape(nodes + 1, width)
