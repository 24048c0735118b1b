"""Usage of the codes of each level. Middle levels concentrate, so every level is reported."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CodeUsage:
    """Usage of the codes of one level.

    utilisation: share of codes used. dead_codes: number of unused codes. entropy: of the code distribution, in bits.
    perplexity: 2 ** entropy, the number of equally used codes with that entropy. gini: 0 for even use, near 1 if one
    code takes all. max_load: SIDs of the fullest code.
    """

    utilisation: float
    dead_codes: int
    entropy: float
    perplexity: float
    gini: float
    max_load: int


@dataclass(frozen=True)
class Collisions:
    """Collisions of SIDs.

    collision_rate: share of items whose SID another item has too. unique_sids: number of different SIDs. largest_group:
    most items with one SID.
    """

    collision_rate: float
    unique_sids: int
    largest_group: int


def level_load(codes_NL: NDArray[np.int32], sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    """Return SIDs per code, int64 (K,) for each level."""
    return [np.bincount(codes_NL[:, level], minlength=size) for level, size in enumerate(sizes)]


def level_metrics(codes_NL: NDArray[np.int32], sizes: Sequence[int]) -> list[CodeUsage]:
    """Return the code usage of each level."""
    return [usage(load) for load in level_load(codes_NL, sizes)]


def usage(load_K: NDArray[np.int64]) -> CodeUsage:
    """Return the code usage of one level, from the SIDs per code."""
    total, used = int(load_K.sum()), load_K[load_K > 0]
    share = used / max(total, 1)
    entropy = float(-(share * np.log2(share)).sum()) + 0.0
    return CodeUsage(
        utilisation=len(used) / len(load_K),
        dead_codes=len(load_K) - len(used),
        entropy=entropy,
        perplexity=2.0**entropy,
        gini=gini(load_K),
        max_load=int(load_K.max()),
    )


def gini(load_K: NDArray[np.int64]) -> float:
    """Return the Gini coefficient: 0 for equal loads or no load, (K - 1) / K if one code has everything."""
    rank = np.arange(1, len(load_K) + 1)
    return float((2 * rank - len(load_K) - 1) @ np.sort(load_K)) / (len(load_K) * max(int(load_K.sum()), 1))
