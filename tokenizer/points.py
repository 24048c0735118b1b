"""Levels whose codes are points: what a level has to encode, and the squared distances to its codes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tokenizer.distance import Floats, distance_blocks
from tokenizer.rows import Block

Target = Callable[[Block], Floats]
"""What a level has to encode of each item of a block, float32 (n, D); pickles."""


@dataclass(frozen=True)
class Residual:
    """What the centroids of former levels, by level number, leave of a source: (n, D)."""

    source: str
    former: tuple[tuple[int, Floats], ...]

    def __call__(self, block: Block) -> Floats:
        left = block.vectors[self.source]
        for level, centroids in self.former:
            left = left - centroids[block.prefix[:, level]]
        return left


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
