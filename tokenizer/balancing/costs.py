"""The cost of each code of a level for each item: what a level has to encode, and squared distances to its codes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tokenizer.arrays.distance import Floats, blocked_product, distance_blocks
from tokenizer.arrays.vectors import Block


class Level(Protocol):
    """One level of a codebook: the cost of its codes. Pickles, for workers elsewhere."""

    @property
    def codes(self) -> int:
        """K."""

    def costs(self, block: Block) -> Iterator[tuple[slice, Floats]]:
        """Rows of the block and their costs, float32 (rows, K), none negative, piece by piece.

        Squared distances, wherever the level stands for points. The cost of an item depends on the item alone, to the
        last bit, not on what else is in the block.
        """


Target = Callable[[Block], Floats]
"""What a level has to encode of each item of a block, float32 (n, D); pickles."""


@dataclass(frozen=True)
class Residual:
    """What the points of former levels, by level number, leave of a source, or of another target: (n, D)."""

    of: str | Target
    former: tuple[tuple[int, Floats], ...]

    def __call__(self, block: Block) -> Floats:
        left = block.vectors[self.of] if isinstance(self.of, str) else self.of(block)
        for level, centroids in self.former:
            left = left - centroids[block.prefix[:, level]]
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
    """A target less an offset (D,), on some directions (D, d): (n, d). Products in blocks of one size."""

    target: Target
    offset: Floats
    directions: Floats

    def __call__(self, block: Block) -> Floats:
        return blocked_product(self.target(block) - self.offset, self.directions)


@dataclass(frozen=True)
class PointLevel:
    """A level whose codes are points: squared distances of a target to them. A `Level`."""

    target: Target
    points: Floats

    @property
    def codes(self) -> int:
        return len(self.points)

    def costs(self, block: Block) -> Iterator[tuple[slice, Floats]]:
        return distance_blocks(self.target(block), self.points)
