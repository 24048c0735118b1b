"""What a way of quantizing must offer (families.py lists those there are).

Capacity, collisions and stability are the same for all of them (see encode.py). All they ask is what each code of a
level would cost an item, given the codes it has so far.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.distance import Floats
from tokenizer.arrays.executor import Work
from tokenizer.arrays.vectors import Block, Items
from tokenizer.codebook import Codebook
from tokenizer.spec import CodebookSpec


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


@dataclass(frozen=True)
class Fit:
    """A fresh codebook, the items it was fitted on, and their codes int32 (N, L), which they may share."""

    codebook: Codebook
    items: Items
    codes: NDArray[np.int32]


class Quantizer(Protocol):
    """Fits codebooks and gives their arrays a meaning; it holds no state of its own."""

    def fit(self, items: Items, spec: CodebookSpec, work: Work) -> Fit:
        """Fit a codebook that depends on the items, not on their order or on who did the work."""

    def level(self, codebook: Codebook, level: int) -> Level:
        """The costs of a level."""

    def decode(self, codebook: Codebook, codes_NL: NDArray[np.int32], source: str) -> Floats:
        """The vectors of a source that SIDs stand for, float32 (N, D)."""
