"""What a way of quantizing must offer (registry.py lists those there are).

Capacity, collisions and stability are the same for all of them (see tokenizer/assign.py). All they ask is what each
code of a level would cost an item, given the codes it has so far.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.distance import Floats
from tokenizer.arrays.executor import Work
from tokenizer.arrays.vectors import Items
from tokenizer.balancing.costs import Level
from tokenizer.codebook import Codebook
from tokenizer.spec import CodebookSpec


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
