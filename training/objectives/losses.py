"""Losses of a generator: functions of its scores and of the right codes.

Another objective (a preference over pairs, a reward) is another function of this type; the loop does not change.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from training.registry import OBJECTIVES
from training.spec import TrainSpec


class Objective(Protocol):
    """A loss, summed over the codes of N targets: scores (N, K) per level, codes (N, L) -> scalar."""

    def __call__(self, scores: list[Tensor], codes_NL: Tensor) -> Tensor:
        """The sum; it has a gradient even without a target."""
        ...


def next_code(scores: list[Tensor], codes_NL: Tensor) -> Tensor:
    """Cross-entropy of the codes."""
    parts = [
        functional.cross_entropy(scores_NK.float(), codes_NL[:, level], reduction="sum")
        for level, scores_NK in enumerate(scores)
    ]
    return torch.stack(parts).sum()


class Ranking:
    """LETTER's ranking-guided loss (arXiv 2405.07314): cross-entropy of scores over a temperature.

    Below 1, codes with scores close to the right one get more of the gradient, which bounds a soft top-k loss.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, scores: list[Tensor], codes_NL: Tensor) -> Tensor:
        """See Objective."""
        return next_code([each / self.temperature for each in scores], codes_NL)


def objective_of(spec: TrainSpec) -> Objective:
    """The objective that a recipe names."""
    return OBJECTIVES.get(spec.objective)(spec)


def plain(spec: TrainSpec) -> Objective:
    """Cross-entropy."""
    return next_code


def ranking(spec: TrainSpec) -> Objective:
    """Ranking-guided at the recipe's temperature."""
    return Ranking(spec.temperature)
