"""Input of fusion: a matrix per modality, aligned by row.

Shapes: N items, D dimensions of a modality, F fused dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
COLLABORATIVE = "collaborative"
ROWS = 1 << 16
"""Items processed at a time."""


class FusionError(ValueError):
    """Raised when a fusion cannot be fitted on, or applied to, these vectors."""


@dataclass(frozen=True)
class Modality:
    """Vectors (N, D) of one modality; rows where `present` (N,) is False are undefined and never read."""

    vectors: Matrix
    present: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.present)

    def take(self, rows: NDArray[np.int64] | slice) -> "Modality":
        """Return some of the items."""
        return Modality(self.vectors[rows], self.present[rows])

    def mean(self) -> Matrix:
        """Return the mean of the present vectors, float32 (D,)."""
        total = np.zeros(self.vectors.shape[1])
        for start in range(0, len(self), ROWS):
            rows = slice(start, start + ROWS)
            total += self.vectors[rows][self.present[rows]].sum(axis=0, dtype=np.float64)
        return np.asarray(total / max(int(self.present.sum()), 1), np.float32)

    def directed(self, mean_D: Matrix) -> Matrix:
        """Return vectors relative to the mean, of unit length; absent ones are zero; float32 (N, D)."""
        moved = np.zeros(self.vectors.shape, np.float32)
        for start in range(0, len(self), ROWS):
            rows = slice(start, start + ROWS)
            there = self.present[rows][:, None]
            np.subtract(self.vectors[rows], mean_D, out=moved[rows], where=there)
            norms = np.linalg.norm(moved[rows], axis=1, keepdims=True)
            moved[rows] /= np.where(norms == 0, 1, norms)
        return moved


def items_of(modalities: Mapping[str, Modality]) -> int:
    """Return the number of items."""
    if not modalities:
        raise FusionError(
            "there are no vectors to fuse: the recipe needs at least one section that makes them, such as [text], "
            "[image] or [collaborative]."
        )
    return len(next(iter(modalities.values())))
