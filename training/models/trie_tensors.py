"""`tokenizer.trie.masks` as tensors: masks and steps of a beam search on the model's device.

All devices run the same few operations, because for one user at a time their number determines the cost. Only data of
uneven sizes (levels without bitmasks, and edges that are closed for some users) makes the host wait for an accelerator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenizer.trie.masks import TrieMasks

ExcludedRows = Sequence[npt.NDArray[np.integer]]

NO_EDGE = np.iinfo(np.int64).max
"""Greater than the number of any edge."""
COMPARED = 1 << 24
"""Beams compared with closed edges at once."""
TABLE = 1 << 18
"""Most edges (nodes times codes) of a level that is stored as a table, for levels near the root.

One look-up replaces six operations of deeper levels. For one user at a time the number of operations determines the
cost.
"""


class TrieTensors:
    """The allowed part of a trie on a device; searches can share it. Nodes are int64 tensors (B, W).

    `whole` is the unfiltered trie, over which a constrained generator distributes its probability. Without it,
    probability is distributed over the allowed part.
    """

    def __init__(self, masks: TrieMasks, device: torch.device | str = "cpu", whole: TrieTensors | None = None) -> None:
        self.masks, self.sizes, self.levels = masks, masks.sizes, masks.levels
        self.whole = whole or self

        def tensor(array: npt.NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)

        # First child and number of children of each node; the last row is for node -1.
        self.spans = [tensor(np.column_stack((starts, np.diff(starts, append=starts[-1])))) for starts in masks.starts]
        self.codes = [tensor(codes) for codes in masks.codes]
        self.bits = [None if bits is None else tensor(bits) for bits in masks.bits]
        # (node, code) of every edge as one ascending number, and a sentinel: one search finds an edge.
        self.keys = [
            tensor(np.append(parents * np.int64(size) + codes, NO_EDGE))
            for parents, codes, size in zip(masks.parents, masks.codes, self.sizes, strict=False)
        ]
        self.tables = [self._table(level) for level in range(self.levels)]
        # Eight booleans for each byte of a bitmask, read as one number. Masks of 2,560 beams
        # and 256 codes take 0.5 ms this way, and 1.2 ms bit by bit, on one thread.
        octets = np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little").view(np.int64)
        self.octets = torch.from_numpy(octets).to(device)

    def _table(self, level: int) -> tuple[Tensor, Tensor] | None:
        """Return the mask of the codes that may follow each node, bool (nodes + 1, K), and the child under each, or -1.

        The last row is for node -1. Returns None for a level whose table would have more than TABLE entries.
        """
        nodes, size, keys = len(self.spans[level]) - 1, self.sizes[level], self.keys[level][:-1]
        if nodes * size > TABLE:
            return None
        child = torch.full(((nodes + 1) * size,), -1, device=keys.device)
        child[keys] = torch.arange(len(keys), device=keys.device)
        child = child.view(nodes + 1, size)
        return child >= 0, child

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it cannot compile the view of numbers as booleans
    def mask(self, level: int, nodes_BW: Tensor) -> Tensor:
        """Return the mask of the codes that may follow each node of a level, bool (B, W, K); none for node -1."""
        table, bits, size = self.tables[level], self.bits[level], self.sizes[level]
        if table is not None:
            return table[0][nodes_BW]
        if bits is not None:
            return self.octets[bits[nodes_BW].int()].view(torch.bool)[..., :size]
        mask_BWK = torch.zeros(*nodes_BW.shape, size, dtype=torch.bool, device=nodes_BW.device)
        owner, _, code = self.edges(level, nodes_BW.flatten())
        mask_BWK.view(-1, size)[owner, code] = True
        return mask_BWK

    def edges(self, level: int, nodes_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the edges (M,) from nodes of a level: ascending positions in `nodes`, children, and their codes."""
        start, count = self.spans[level][nodes_N].long().unbind(1)
        owner = torch.repeat_interleave(count)
        place = torch.arange(len(owner), device=owner.device)
        child = place + (start + count - count.cumsum(0))[owner]
        return owner, child, self.codes[level][child].long()

    def step(self, level: int, nodes_BW: Tensor, codes_BW: Tensor) -> Tensor:
        """Return the child of each node under its code; -1 if there is none or the node is -1."""
        table, keys = self.tables[level], self.keys[level]
        if table is not None:
            return table[1][nodes_BW, codes_BW]
        key_BW = nodes_BW * self.sizes[level] + codes_BW
        child_BW = torch.searchsorted(keys, key_BW)
        return child_BW.where(keys[child_BW] == key_BW, -1)

    def restrict(self, level: int, scores_BWK: Tensor, nodes_BW: Tensor) -> Tensor:
        """Return the scores of the codes that may follow each node, -inf for the others."""
        return scores_BWK.where(self.mask(level, nodes_BW), -torch.inf)

    def closed(self, exclude: ExcludedRows) -> list[Tensor]:
        """Return the edges to `close` for each user u: those below which every row of the trie is among exclude[u].

        There is a tensor (3, X) for each level, with user, node and code of each of X edges.
        """
        user = np.repeat(np.arange(len(exclude)), [len(rows) for rows in exclude])
        rows = np.concatenate(exclude).astype(np.int64, copy=False)
        device = self.octets.device
        return [torch.from_numpy(np.array(edges, np.int64)).to(device) for edges in self.masks.closed(user, rows)]

    def close(self, scores_BWK: Tensor, nodes_BW: Tensor, closed: Tensor) -> None:
        """Set the scores of the edges that are closed for a user at this level to -inf, in place."""
        at_once = max(1, COMPARED // nodes_BW.shape[1])
        for start in range(0, closed.shape[1], at_once):
            user_X, node_X, code_X = closed[:, start : start + at_once]
            edge, beam = (nodes_BW[user_X] == node_X.unsqueeze(1)).nonzero(as_tuple=True)
            scores_BWK[user_X[edge], beam, code_X[edge]] = -torch.inf
