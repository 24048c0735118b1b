"""Paired comparison of two recommenders on the same cases: the difference of recall, and a verdict."""

import numpy as np

from storage.releases.evaluation import Comparison, Verdict
from tokenizer.arrays.types import Ints
from training.evaluation.metrics import DRAWS, hits_at

MIN_DIFFERENT = 6
"""With fewer differing cases, chance alone may put all of them on one side: 2 * 0.5 ** 5 > 0.05."""


def versus(ours: Ints, theirs: Ints, k: int, seed: int = 0, draws: int = DRAWS) -> Comparison:
    """Return the difference of recall at `k`, ours less theirs, its bootstrap 95 % interval, and the verdict.

    Both are ranks of the targets of the same cases, as in `training.evaluation.metrics`. Pairs are resampled: a case
    that both hit or both miss adds nothing to the difference. The verdict needs an interval without 0, and at least
    MIN_DIFFERENT cases that differ.
    """
    difference = hits_at(ours, k).astype(np.int64) - hits_at(theirs, k)
    won, lost = int((difference > 0).sum()), int((difference < 0).sum())
    cases = len(difference)
    counts = np.random.default_rng(seed).multinomial(
        cases, [won / cases, lost / cases, 1 - (won + lost) / cases], draws
    )
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / cases, [0.025, 0.975]).tolist()
    return Comparison(k, (won - lost) / cases, [low, high], won, lost, _verdict(low, high, won + lost))


def _verdict(low: float, high: float, different: int) -> Verdict:
    if different < MIN_DIFFERENT or low <= 0 <= high:
        return "not told apart"
    return "beats" if low > 0 else "is worse"
