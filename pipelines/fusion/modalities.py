"""What fusion takes: a matrix per modality, aligned row by row.

Shapes: N items, D dimensions of a modality, F fused dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
COLLABORATIVE = "collaborative"


class FusionError(ValueError):
    """A fusion cannot be fitted on, or applied to, these vectors."""


@dataclass(frozen=True)
class Modality:
    """The vectors (N, D) of one modality; rows where `present` (N,) is False hold nothing and are never read."""

    vectors: Matrix
    present: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.present)

    def take(self, rows: NDArray[np.int64] | slice) -> "Modality":
        """Some of the items."""
        return Modality(self.vectors[rows], self.present[rows])

    def known(self) -> Matrix:
        """The vectors of the items that have one, float32 (n, D)."""
        return np.asarray(self.vectors[self.present], np.float32)

    def directed(self, mean_D: Matrix) -> Matrix:
        """Vectors seen from the mean, of unit length; zero where there is none, float32 (N, D)."""
        moved = np.where(self.present[:, None], self.vectors - mean_D, 0).astype(np.float32)
        norms = np.linalg.norm(moved, axis=1, keepdims=True)
        return np.asarray(moved / np.where(norms == 0, 1, norms), np.float32)


def items_of(modalities: Mapping[str, Modality]) -> int:
    """How many items these are of."""
    if not modalities:
        raise FusionError("no modality was given; a catalogue needs text, images or logs to be fused.")
    return len(next(iter(modalities.values())))
