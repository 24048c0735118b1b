"""`tokenizer.trie_masks` as tensors: masks and steps of a beam search on the model's device.

The same operations on every device, and few of them: for one user at a time their number is what they cost. Only what
is laid out by unequal counts (levels without bitmasks, and edges that are closed for some users) makes the host wait
for an accelerator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenizer.trie_masks import TrieMasks

Rows = Sequence[npt.NDArray[np.integer]]

COMPARED = 1 << 24
"""Beams held against closed edges at once."""


class TrieTensors:
    """The allowed part of a trie on a device; share one among searches. Nodes are int64 tensors (B, W).

    `whole` is the trie without a filter, over which a constrained generator's probabilities are shared out; without it
    they are shared out over what is allowed.
    """

    def __init__(self, masks: TrieMasks, device: torch.device | str = "cpu", whole: TrieTensors | None = None) -> None:
        self.masks, self.sizes, self.levels = masks, masks.sizes, masks.levels
        self.whole = whole or self

        def tensor(array: npt.NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)

        self.starts = [tensor(starts) for starts in masks.starts]
        self.bits = [None if bits is None else tensor(bits) for bits in masks.bits]
        # (node, code) of every edge as one number, ascending: an edge is found in one search.
        self.keys = [
            tensor(np.repeat(np.arange(len(starts) - 1) * size, np.diff(starts)) + codes)
            for starts, codes, size in zip(masks.starts, masks.codes, self.sizes, strict=False)
        ]
        # Eight booleans for each byte of a bitmask, read as one number. Masks of 2,560 beams
        # and 256 codes took 1.2 ms bit by bit and take 0.5 ms so, on one thread.
        octets = np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little").view(np.int64)
        self.octets = torch.from_numpy(octets).to(device)

    def mask(self, level: int, nodes_BW: Tensor) -> Tensor:
        """Which codes may follow each node of a level, bool (B, W, K); none for node -1."""
        bits, size = self.bits[level], self.sizes[level]
        if bits is not None:
            return self.octets[bits[nodes_BW].int()].view(torch.bool)[..., :size]
        mask_BWK = torch.zeros(*nodes_BW.shape, size, dtype=torch.bool, device=nodes_BW.device)
        owner, child = self.children(level, nodes_BW.flatten())
        mask_BWK.view(-1, size)[owner, self.codes(level, child)] = True
        return mask_BWK

    def children(self, level: int, nodes_N: Tensor) -> tuple[Tensor, Tensor]:
        """The nodes that follow each node of a level: (M,) places in `nodes`, ascending, and (M,) children."""
        starts, known_N = self.starts[level].long(), nodes_N.clamp(min=0)
        start = starts[known_N]
        count = torch.where(nodes_N < 0, 0, starts[known_N + 1] - start)
        owner = torch.repeat_interleave(count)
        place = torch.arange(len(owner), device=owner.device)
        return owner, place + (start - (count.cumsum(0) - count))[owner]

    def codes(self, level: int, child_M: Tensor) -> Tensor:
        """The codes (M,) that lead from a level to nodes of the next."""
        return self.keys[level][child_M] % self.sizes[level]

    def step(self, level: int, nodes_BW: Tensor, codes_BW: Tensor) -> Tensor:
        """The child of each node under its code; -1 where there is none or the node is -1."""
        keys, key_BW = self.keys[level], nodes_BW * self.sizes[level] + codes_BW
        if not len(keys):
            return torch.full_like(nodes_BW, -1)
        child_BW = torch.searchsorted(keys, key_BW)
        return child_BW.where(keys[child_BW.clamp(max=len(keys) - 1)] == key_BW, -1)

    def restrict(self, level: int, scores_BWK: Tensor, nodes_BW: Tensor) -> Tensor:
        """Scores of the codes that may follow each node, -inf of the others."""
        return scores_BWK.where(self.mask(level, nodes_BW), -torch.inf)

    def closed(self, exclude: Rows) -> list[tuple[Tensor, Tensor]]:
        """Per level, what `close` needs to keep the rows exclude[u] of the trie from user u.

        Nodes and codes of the closed edges, (B, X) with as many places as the user with most has; node -2 fills up.
        """
        user = np.repeat(np.arange(len(exclude)), [len(rows) for rows in exclude])
        rows = np.concatenate([np.asarray(rows, np.int64) for rows in exclude])
        device, closed = self.octets.device, []
        none = torch.zeros(len(exclude), 0, dtype=torch.long, device=device)
        for owner, node, code in self.masks.closed(user, rows):
            if not len(owner):
                closed.append((none, none))
                continue
            counts = np.bincount(owner, minlength=len(exclude))
            edges = np.full((2, len(exclude), counts.max()), -2, np.int64)
            edges[:, owner, np.arange(len(owner)) - (counts.cumsum() - counts)[owner]] = node, code
            both = torch.from_numpy(edges).to(device)
            closed.append((both[0], both[1]))
        return closed

    def close(self, scores_BWK: Tensor, nodes_BW: Tensor, closed: tuple[Tensor, Tensor]) -> None:
        """Give the edges that are closed for a user at this level the score -inf, in place."""
        nodes_BX, codes_BX = closed
        users = max(1, COMPARED // max(1, nodes_BW.shape[1] * nodes_BX.shape[1]))
        for start in range(0, len(nodes_BW), users):
            part = slice(start, start + users)
            same_BWX = nodes_BW[part].unsqueeze(2) == nodes_BX[part].unsqueeze(1)
            user, beam, edge = same_BWX.nonzero(as_tuple=True)
            scores_BWK[part][user, beam, codes_BX[part][user, edge]] = -torch.inf
