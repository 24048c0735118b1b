"""Histories as models read them: the SIDs of events, oldest first, padded on the right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int64]
SHOWN = 1
"""The kind of an event that was only shown; 0 is any other."""
OF_ONE_EVENT = 2
"""The first kind that is a behaviour which the spec of a model names."""


@dataclass(frozen=True)
class Events:
    """codes (B, E, L), kinds (B, E) and lengths (B,), all int64; zeros stand behind the end of a history."""

    codes: Tensor
    kinds: Tensor
    lengths: Tensor

    @property
    def real(self) -> Tensor:
        """Which places hold an event, bool (B, E)."""
        return torch.arange(self.codes.shape[1], device=self.codes.device) < self.lengths[:, None]

    def to(self, device: torch.device) -> Events:
        """The same on `device`."""
        return Events(*(each.to(device, non_blocking=True) for each in (self.codes, self.kinds, self.lengths)))


def place(lengths: Ints, width: int) -> npt.NDArray[np.bool_]:
    """Which of `width` places of each row hold something, (B, width)."""
    return np.asarray(np.arange(width) < lengths[:, None])


def gathered(codes: npt.NDArray[np.integer], kinds: npt.NDArray[np.integer], rows: Ints, lengths: Ints) -> Events:
    """The events at `rows` (B, E) of a pool, codes (N, L) and kinds (N,); the first `lengths` (B,) of a row count."""
    real = place(lengths, rows.shape[1])
    rows = np.where(real, rows, 0)
    if not len(codes):
        codes, kinds = np.zeros((1, codes.shape[1]), np.int64), np.zeros(1, np.int64)
    return Events(
        torch.from_numpy(np.where(real[:, :, None], codes[rows], 0).astype(np.int64)),
        torch.from_numpy(np.where(real, kinds[rows], 0).astype(np.int64)),
        torch.from_numpy(np.asarray(lengths, np.int64)),
    )
