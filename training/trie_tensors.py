"""`tokenizer.trie_masks` as tensors: masks and steps of a beam search on the model's device.

The same operations on every device. Only what is laid out by unequal counts (levels without bitmasks, and edges that
are closed for some users) makes the host wait for an accelerator.
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


class TrieTensors:
    """The allowed part of a trie on a device; share one among searches. Nodes are int64 tensors (B, W)."""

    def __init__(self, masks: TrieMasks, device: torch.device | str = "cpu") -> None:
        self.masks, self.sizes, self.levels = masks, masks.sizes, masks.levels

        def tensor(array: npt.NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)

        self.starts = [tensor(starts) for starts in masks.starts]
        self.codes = [tensor(codes) for codes in masks.codes]
        self.bits = [None if bits is None else tensor(bits) for bits in masks.bits]
        # Halvings that find a code among the children of any node of the level.
        self.halvings = [int(np.diff(starts).max(initial=0)).bit_length() for starts in masks.starts]
        # Eight booleans for each byte of a bitmask, read as one number. Masks of 2,560 beams
        # and 256 codes took 1.2 ms bit by bit and take 0.5 ms so, on one thread.
        octets = np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little").view(np.int64)
        self.octets = torch.from_numpy(octets).to(device)

    def mask(self, level: int, nodes_BW: Tensor) -> Tensor:
        """Which codes may follow each node of a level, bool (B, W, K); none for node -1."""
        bits, size = self.bits[level], self.sizes[level]
        if bits is not None:
            return self.octets[bits[nodes_BW].int()].view(torch.bool)[..., :size]
        start, count = self._children(level, nodes_BW)
        mask_BWK = torch.zeros(*nodes_BW.shape, size, dtype=torch.bool, device=nodes_BW.device)
        _mark(mask_BWK, start, count, self.codes[level], True)
        return mask_BWK

    def step(self, level: int, nodes_BW: Tensor, codes_BW: Tensor) -> Tensor:
        """The child of each node under its code; -1 where there is none or the node is -1."""
        labels = self.codes[level]
        if not len(labels):
            return torch.full_like(nodes_BW, -1)
        low, count = self._children(level, nodes_BW)
        stop, last = low + count, len(labels) - 1
        high = stop
        for _ in range(self.halvings[level]):
            middle = (low + high) // 2
            less = (labels[middle.clamp(max=last)] < codes_BW) & (low < high)
            low, high = torch.where(less, middle + 1, low), torch.where(less, high, middle)
        return torch.where((low < stop) & (labels[low.clamp(max=last)] == codes_BW), low, -1)

    def closed(self, exclude: Rows) -> list[tuple[Tensor, Tensor]]:
        """Per level, what `close` needs to keep the rows exclude[u] of the trie from user u."""
        user = np.repeat(np.arange(len(exclude)), [len(rows) for rows in exclude])
        rows = np.concatenate([np.asarray(rows, np.int64) for rows in exclude])
        device = self.octets.device
        return [
            (
                torch.from_numpy(user * (len(starts) - 1) + node).to(device),
                torch.from_numpy(codes.astype(np.int64)).to(device),
            )
            for starts, (user, node, codes) in zip(self.masks.starts, self.masks.closed(user, rows), strict=True)
        ]

    def close(self, level: int, mask_BWK: Tensor, nodes_BW: Tensor, closed: tuple[Tensor, Tensor]) -> None:
        """Clear the user's closed edges from a mask, in place."""
        keys, codes = closed
        users_B1 = torch.arange(len(nodes_BW), device=nodes_BW.device).unsqueeze(1)
        key_BW = users_B1 * (len(self.starts[level]) - 1) + nodes_BW.clamp(min=0)
        start = torch.searchsorted(keys, key_BW)
        _mark(mask_BWK, start, torch.searchsorted(keys, key_BW, right=True) - start, codes, False)

    def _children(self, level: int, nodes_BW: Tensor) -> tuple[Tensor, Tensor]:
        starts, known_BW = self.starts[level], nodes_BW.clamp(min=0)
        start = starts[known_BW].long()
        return start, torch.where(nodes_BW < 0, 0, starts[known_BW + 1] - start)


def _mark(mask_BWK: Tensor, start_BW: Tensor, count_BW: Tensor, codes: Tensor, value: bool) -> None:
    """Set mask[b, w, codes[start[b, w] + i]] for all i below count[b, w]."""
    start, count = start_BW.flatten(), count_BW.flatten()
    beam = torch.repeat_interleave(count)
    place = torch.arange(len(beam), device=beam.device) + (start - (count.cumsum(0) - count))[beam]
    mask_BWK.view(len(start), -1)[beam, codes[place].long()] = value
