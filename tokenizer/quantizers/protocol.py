"""The interface of a quantizer (registry.py lists all of them).

Capacity, collisions and stability are handled alike for all quantizers (see tokenizer/assign.py). A quantizer only
gives the cost of each code of a level for an item, given its codes so far.
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
    """A fresh codebook, the items it was fitted on, and their codes int32 (N, L), which may be shared."""

    codebook: Codebook
    items: Items
    codes: NDArray[np.int32]


class Quantizer(Protocol):
    """A method to fit codebooks and to interpret their arrays, without state of its own."""

    def fit(self, items: Items, spec: CodebookSpec, work: Work) -> Fit:
        """Fit a codebook that depends on the items alone, not on their order or on the workers."""

    def level(self, codebook: Codebook, level: int) -> Level:
        """The costs of a level."""

    def decode(self, codebook: Codebook, codes_NL: NDArray[np.int32], source: str) -> Floats:
        """The vectors of a source that SIDs stand for, float32 (N, D)."""
