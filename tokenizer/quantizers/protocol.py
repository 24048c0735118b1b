"""The interface of a quantizer (tokenizer/registry.py lists all of them).

Capacity, collisions and stability are handled alike for all quantizers (see tokenizer/assign.py). A quantizer only
gives the cost of each code of a level for an item, given its codes so far.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from learning.trainer import Trainer
from tokenizer.arrays.executor import Executor
from tokenizer.arrays.types import Floats
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


def _anything(spec: CodebookSpec) -> None:
    """Accept every spec."""


@dataclass(frozen=True)
class Quantizer:
    """Functions that fit codebooks of one kind and give their arrays a meaning, and what the kind declares of itself.

    `fit(items, spec, work, train)` fits a codebook that depends on the items, not on their order or on where the work
    is done; `train` trains a network, for a quantizer that has one. `level(codebook, number)` gives the costs of a
    level. `decode(codebook, codes, source)` gives the vectors of a source that SIDs (N, L) stand for, float32 (N, D).

    `ordered`: a code has a meaning only after those before it, so that SIDs make a trie. `trained`: it has a network.
    `refits`: its arrays are centroids of residuals, "level0" and on (K, D), which `tokenizer.refit` may move.
    `check(spec)` raises ValueError for a spec that it cannot fit. `options` is the model of `codebook.options`.
    """

    fit: Callable[[Items, CodebookSpec, Executor, Trainer], Fit]
    level: Callable[[Codebook, int], Level]
    decode: Callable[[Codebook, NDArray[np.int32], str], Floats]
    ordered: bool = True
    trained: bool = False
    refits: bool = False
    check: Callable[[CodebookSpec], None] = _anything
    options: type[BaseModel] | None = None


def reads_one_source(spec: CodebookSpec) -> None:
    """Raise ValueError unless all levels read residuals of one source as they are."""
    if len({level.source for level in spec.levels}) > 1 or any(level.input == "vector" for level in spec.levels):
        raise ValueError(
            f"all levels of {spec.quantizer} read residuals of one source; give them the same source and remove "
            'input = "vector", or use rq-kmeans, which can read several'
        )
    if spec.normalise:
        raise ValueError(f"normalise is only for rq-kmeans, not for {spec.quantizer}; remove it")
