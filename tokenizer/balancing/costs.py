"""The cost of each code of a level for each item: squared distances of the level's targets to its codes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tokenizer.arrays.distance import blocked_product, distance_blocks
from tokenizer.arrays.types import Floats
from tokenizer.arrays.vectors import Block


class Level(Protocol):
    """The cost function of one level of a codebook. It can be pickled for remote workers."""

    @property
    def codes(self) -> int:
        """K."""

    def costs(self, block: Block) -> Iterator[tuple[slice, Floats]]:
        """Yield row slices of the block and their costs, float32 (rows, K), none negative, piece by piece.

        The costs are squared distances if the codes are points. The cost of an item depends, to the last bit, on the
        item alone, not on the rest of the block.
        """


ROWS = 256
"""Rows whose residual is made at once. They stay in the cache, which takes a quarter of the time of whole spans."""
Target = Callable[[Block], Floats]
"""The vectors that a level encodes, one for each item of a block, float32 (n, D); can be pickled."""


@dataclass(frozen=True)
class Residual:
    """The residual of a source, or of another target, after the points of former levels (by number): (n, D)."""

    of: str | Target
    former: tuple[tuple[int, Floats], ...]

    def __call__(self, block: Block) -> Floats:
        whole = block.vectors[self.of] if isinstance(self.of, str) else self.of(block)
        if not self.former:
            return whole
        left = np.empty(whole.shape, np.float32)
        for start in range(0, len(whole), ROWS):
            rows = slice(start, start + ROWS)
            part = whole[rows]
            for level, centroids in self.former:
                part = part - centroids[block.prefix[rows, level]]
            left[rows] = part
        return left


@dataclass(frozen=True)
class Scaled:
    """A target divided by a scale (D,)."""

    target: Target
    scale: Floats

    def __call__(self, block: Block) -> Floats:
        return self.target(block) / self.scale


@dataclass(frozen=True)
class Squared:
    """The squares of a target, in each dimension."""

    target: Target

    def __call__(self, block: Block) -> Floats:
        return np.square(self.target(block))


@dataclass(frozen=True)
class Projected:
    """A target less an offset (D,), projected on directions (D, d): (n, d). Uses blocks of one size."""

    target: Target
    offset: Floats
    directions: Floats

    def __call__(self, block: Block) -> Floats:
        return blocked_product(self.target(block) - self.offset, self.directions)


@dataclass(frozen=True)
class CentroidLevel:
    """A `Level` whose codes are points: squared distances of a target to them."""

    target: Target
    points: Floats

    @property
    def codes(self) -> int:
        return len(self.points)

    def costs(self, block: Block) -> Iterator[tuple[slice, Floats]]:
        return distance_blocks(self.target(block), self.points)
