"""What a way of quantizing must offer, and the ways there are.

Capacity, collisions and stability are the same for all of them (see encode.py): each level has a target per
item and a point per code. For residual k-means the target is a residual; for product quantization it would be
a part of the vector, for finite scalar quantization one bounded coordinate, for random SIDs a projection that
nothing was learnt for.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tokenizer import rq_kmeans
from tokenizer.codebook import Codebook
from tokenizer.distance import Floats
from tokenizer.items import ItemIds
from tokenizer.layout import Array
from tokenizer.spec import CodebookSpec


class Quantizer(Protocol):
    """Fits codebooks and gives their arrays a geometry; it holds no state of its own."""

    def fit(self, vectors: Mapping[str, Array], item_ids: ItemIds, spec: CodebookSpec) -> Codebook:
        """Fit a codebook that depends on the items, not on their order."""

    def target(self, codebook: Codebook, vectors: Mapping[str, Floats], prefix_Nl: NDArray[np.int32]) -> Floats:
        """What the next level has to encode, given the codes (N, l) so far: float32 (N, D of that level)."""

    def centroids(self, codebook: Codebook, level: int) -> Floats:
        """The point each code of a level stands for, float32 (K, D of that level)."""

    def decode(self, codebook: Codebook, codes_NL: NDArray[np.int32], source: str) -> Floats:
        """The vectors of a source that SIDs stand for, float32 (N, D)."""


QUANTIZERS: dict[str, Quantizer] = {"rq-kmeans": rq_kmeans}


def quantizer_of(spec: CodebookSpec) -> Quantizer:
    """The implementation that a spec names."""
    return QUANTIZERS[spec.quantizer]
