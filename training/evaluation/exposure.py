"""Exposure of the catalogue in rankings, right or wrong: coverage, novelty, diversity and evenness."""

from collections.abc import Sequence

import numpy as np

from tokenizer.arrays.types import Doubles, Ints
from tokenizer.code_usage import gini

PAIRS = 1 << 22
"""Pairs of positions compared at once."""


def self_information(counts: Ints) -> Doubles:
    """-log2 of each item's share of the training events, in bits, with one event added to every item (Laplace).

    counts (N,) -> (N,). Items without events have the largest value, log2(events + N).
    """
    bits: Doubles = np.log2(counts.sum() + len(counts)) - np.log2(counts + 1.0)
    return bits


class Exposure:
    """Exposure by the first k of rankings, for each k of `cuts`, summed batch by batch.

    numbers (N, L) of prefixes as from `training.evaluation.metrics.prefix_numbers`; bits (N,) as from
    `self_information`.
    """

    def __init__(self, numbers: Ints, bits: Doubles, cuts: Sequence[int]) -> None:
        self._numbers, self._bits = numbers, bits
        self._shown = {k: np.zeros(len(numbers), np.int64) for k in cuts}
        self._unlike = {k: np.zeros(2) for k in cuts}

    def add(self, ranked: Ints) -> None:
        """Count rankings (n, W), best first, -1 padded."""
        for k, shown in self._shown.items():
            head = ranked[:, :k]
            np.add.at(shown, head[head >= 0], 1)
            rows = max(1, PAIRS // head.shape[1] ** 2)
            for start in range(0, len(head), rows):
                self._unlike[k] += _unlike(head[start : start + rows], self._numbers)

    def figures(self) -> dict[str, float | None]:
        """Return the figures per k; None if no item or list was shown that defines one.

        coverage: share of all N items that any user was shown. novelty: mean self-information of the shown items, in
        bits. diversity: 1 - the share of leading codes that two items of a list have in common, averaged over the pairs
        of a list, then over the lists of two or more. exposure_gini: 0 if every item of the catalogue was shown equally
        often, near 1 if one item was shown to all.
        """
        found: dict[str, float | None] = {}
        for k, shown in self._shown.items():
            total, (unlike, lists) = int(shown.sum()), self._unlike[k].tolist()
            found[f"coverage@{k}"] = float((shown > 0).mean()) if len(shown) else None
            found[f"novelty@{k}"] = float(shown @ self._bits) / total if total else None
            found[f"diversity@{k}"] = unlike / lists if lists else None
            found[f"exposure_gini@{k}"] = gini(shown) if total else None
        return found


def _unlike(ranked: Ints, numbers: Ints) -> Doubles:
    """Sum of the lists' diversities, and the number of lists, over those with two or more items."""
    one, other = np.triu_indices(ranked.shape[1], 1)
    a, b = ranked[:, one], ranked[:, other]
    filled = (a >= 0) & (b >= 0)
    pairs, common = filled.sum(axis=1), np.zeros(len(ranked))
    for prefix in numbers.T:
        common += ((prefix[a] == prefix[b]) & filled).sum(axis=1)
    lists = pairs > 0
    return np.array([(1 - common[lists] / (numbers.shape[1] * pairs[lists])).sum(), lists.sum()])
