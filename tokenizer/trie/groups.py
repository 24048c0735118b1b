"""Figures of a SID table that its trie tells: use of codes, collisions and agreement by chance, without sorting."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenizer.code_usage import CodeUsage, Collisions, usage
from tokenizer.trie.trie import Trie


def items_below(trie: Trie, length: int) -> NDArray[np.int64]:
    """Return the number of items below each prefix of `length` codes that occurs, in order of the prefixes."""
    start = np.arange(len(trie.arrays[f"codes{length - 1}"]) + 1)
    for level in range(length, len(trie.layers)):
        start = trie.child_starts(level)[start]
    return np.diff(start)


def level_usage(trie: Trie) -> list[CodeUsage]:
    """Return the `level_metrics` of the SIDs of a trie."""
    return [
        usage(_load(trie.arrays[f"codes{level}"], items_below(trie, level + 1), size))
        for level, size in enumerate(trie.sizes)
    ]


def _load(codes: NDArray[Any], items: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    return np.bincount(codes, weights=items, minlength=size).astype(np.int64)


def collisions(trie: Trie) -> Collisions:
    """Return the `collision_metrics` of the SIDs of a trie."""
    if not len(trie):
        return Collisions(0.0, 0, 0)
    group = items_below(trie, trie.levels)
    shared = int(group[group > 1].sum())
    return Collisions(shared / len(trie), len(group), int(group.max()))


def chance_agreement(trie: Trie) -> list[float]:
    """Return the `pair_agreement` of all pairs of different items: the floor of any hit-rate."""
    items = len(trie)
    if items < 2:
        return [0.0] * trie.levels
    counts = (items_below(trie, length) for length in range(1, trie.levels + 1))
    return [float((count * (count - 1)).sum() / (items * (items - 1))) for count in counts]
