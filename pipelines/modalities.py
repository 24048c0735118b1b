"""Input of fusion: a matrix per modality, aligned by row.

Shapes: N items, D dimensions of a modality, F fused dimensions.
"""

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.executor import LOCAL_THREADS, Executor
from tokenizer.arrays.scratch import ScratchRows, scratch_rows
from tokenizer.arrays.vectors import NOTHING, ArrayRows, Items, Rows, TakenRows, take_any

Matrix = NDArray[np.float32]
TEXT, IMAGE, ATTRIBUTES, COORDINATES = "text", "image", "attributes", "coordinates"
COLLABORATIVE, FUSED = "collaborative", "fused"
CONTENT = (TEXT, IMAGE, ATTRIBUTES, COORDINATES)
"""Modalities made of an item's own content: see `pipelines.embed.content_modalities`."""
ENCODED = (TEXT, IMAGE)
"""Those whose stage loads a model, which a recipe may place."""
MADE_HERE = (*CONTENT, COLLABORATIVE, FUSED)
"""Names of vectors that sidmill makes."""
ROWS = 1 << 16
"""Items processed at a time."""


class FusionError(ValueError):
    """Raised when a fusion cannot be fitted on, or applied to, these vectors."""


class ModalityRows(Sized, Protocol):
    """Vectors (N, D) of one modality, read for some items at a time.

    Rows where `present` (N,) is False are undefined and never read.
    """

    @property
    def present(self) -> NDArray[np.bool_]: ...

    @property
    def width(self) -> int: ...

    @property
    def rows(self) -> Rows: ...

    def take(self, rows: NDArray[np.int64] | slice) -> "Modality":
        """Return some of the items."""


@dataclass(frozen=True)
class Modality:
    """Vectors (N, D) of one modality in memory. A `ModalityRows`."""

    vectors: Matrix
    present: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.present)

    @property
    def width(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def rows(self) -> Rows:
        """The vectors."""
        return ArrayRows(self.vectors)

    def take(self, rows: NDArray[np.int64] | slice) -> "Modality":
        return Modality(self.vectors[rows], self.present[rows])

    def directed(self, mean_D: Matrix) -> Matrix:
        """Return vectors relative to the mean, of unit length; absent ones are zero; float32 (N, D)."""
        moved = np.zeros(self.vectors.shape, np.float32)
        for start in range(0, len(self), ROWS):
            rows = slice(start, start + ROWS)
            present = self.present[rows][:, None]
            np.subtract(self.vectors[rows], mean_D, out=moved[rows], where=present)
            norms = np.linalg.norm(moved[rows], axis=1, keepdims=True)
            moved[rows] /= np.where(norms == 0, 1, norms)
        return moved


@dataclass(frozen=True)
class StoredModality:
    """Vectors (N, D) of one modality, in memory, in a scratch file or in Ray's object store. A `ModalityRows`."""

    rows: Rows
    present: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.present)

    @property
    def width(self) -> int:
        return self.rows.shape[1]

    def take(self, rows: NDArray[np.int64] | slice) -> Modality:
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return Modality(self.rows.read(start, stop), self.present[rows])
        return Modality(take_any(self.rows, rows), self.present[rows])

    def only(self, rows: NDArray[np.int64]) -> "StoredModality":
        """Return some of the items without a copy."""
        return StoredModality(TakenRows(self.rows, rows), self.present[rows])


@dataclass(frozen=True)
class ScratchModality(StoredModality):
    """Vectors (N, D) of one modality that are filled in."""

    rows: ScratchRows

    @classmethod
    def absent(cls, items: int, width: int) -> "ScratchModality":
        """Return a modality that no item has yet."""
        return cls(scratch_rows(items, width), np.zeros(items, np.bool_))

    def fill(self, rows: NDArray[np.int64], vectors: Matrix) -> None:
        """Set the vectors of some items, ascending."""
        self.rows.scatter(rows, vectors)
        self.present[rows] = True


def mean_of(modality: ModalityRows, work: Executor = LOCAL_THREADS) -> Matrix:
    """Return the mean of the present vectors, float32 (D,); sums of ROWS rows are added in order."""
    present = modality.present
    tasks = ((start, present[start : start + ROWS]) for start in range(0, len(modality), ROWS))
    vectors = Items({"vectors": modality.rows}, NOTHING.ties)
    total = sum(work.map(_span_sum, vectors, tasks), start=np.zeros(modality.width))
    return np.asarray(total / max(int(present.sum()), 1), np.float32)


def _span_sum(vectors: Items, start: int, present: NDArray[np.bool_]) -> NDArray[np.float64]:
    rows = vectors.rows["vectors"].read(start, start + len(present))
    return np.asarray(rows[present].sum(axis=0, dtype=np.float64))


def items_of(modalities: Mapping[str, ModalityRows]) -> int:
    """Return the number of items."""
    if not modalities:
        raise FusionError(
            "there are no vectors to fuse: the recipe needs at least one section that makes them, such as [text], "
            "[image] or [collaborative]."
        )
    return len(next(iter(modalities.values())))
