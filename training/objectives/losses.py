"""Losses of a generator: of the right codes alone, or of the right item against others.

A new objective is another member of one of the two protocols; the loop does not change.

Shape suffixes: N targets, L levels, K codes of a level, C items compared (the right one first).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from training.registry import OBJECTIVES
from training.spec import TrainSpec

CANDIDATES = 8
"""Items that softmax DPO compares with the right one."""
NEVER = -1e9
"""Log-probability of a candidate that does not count; minus infinity would have no gradient."""


class Objective(Protocol):
    """A loss, summed over the codes of N targets: scores (N, K) per level, codes (N, L) -> scalar."""

    def __call__(self, scores: list[Tensor], codes_NL: Tensor) -> Tensor:
        """The sum; it has a gradient even without a target."""
        ...


class WeightedObjective(Protocol):
    """An `Objective` that can count each target for its weight (N,)."""

    def __call__(self, scores: list[Tensor], codes_NL: Tensor, weights_N: Tensor | None = None) -> Tensor:
        """The sum; without weights each target counts for 1."""
        ...


@dataclass(frozen=True)
class Candidates:
    """The right SID of each target, first, and SIDs that the weights being trained prefer at this step.

    codes int64 (N, C, L); `real` bool (N, C) is false where the search found too few, or the right SID again. `policy`
    and `reference` float32 (N, C) are log p(SID | history) under the weights being trained and, without gradient, under
    those that the training started from.
    """

    codes: Tensor
    real: Tensor
    policy: Tensor
    reference: Tensor


@runtime_checkable
class Preference(Protocol):
    """A loss, summed over N targets, of the right item and of `candidates` others, such as a preference or a reward."""

    candidates: int

    def __call__(self, compared: Candidates) -> Tensor:
        """The sum; it has a gradient even without a target."""
        ...


def next_code(scores: list[Tensor], codes_NL: Tensor, weights_N: Tensor | None = None) -> Tensor:
    """Return cross-entropy of the codes."""
    if weights_N is not None:
        each_level = [
            functional.cross_entropy(scores_NK.float(), codes_NL[:, level], reduction="none")
            for level, scores_NK in enumerate(scores)
        ]
        return (torch.stack(each_level) * weights_N).sum()
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

    def __call__(self, scores: list[Tensor], codes_NL: Tensor, weights_N: Tensor | None = None) -> Tensor:
        """See WeightedObjective."""
        return next_code([each / self.temperature for each in scores], codes_NL, weights_N)


class SoftmaxDpo:
    """Softmax DPO (arXiv 2406.09215): the right item gains more over the reference than all candidates together.

    With gain = (policy - reference) / temperature the loss of a target is log(1 + sum of exp(gain of a candidate - gain
    of the right item)).
    """

    candidates = CANDIDATES

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, compared: Candidates) -> Tensor:
        """See Preference."""
        gain_NC = (compared.policy - compared.reference) / self.temperature
        worse_NC = (gain_NC[:, 1:] - gain_NC[:, :1]).masked_fill(~compared.real[:, 1:], NEVER)
        return functional.softplus(worse_NC.logsumexp(dim=1)).sum()


def objective_of(spec: TrainSpec) -> Objective | Preference:
    """Return the objective that a recipe names."""
    return OBJECTIVES.get(spec.objective)(spec)


def compares(name: str) -> bool:
    """Return whether an objective compares with the model that a training starts from.

    It then learns from all events, also from those that the model has learnt to predict.
    """
    return isinstance(objective_of(TrainSpec(objective=name)), Preference)


def plain(spec: TrainSpec) -> Objective:
    """Return cross-entropy."""
    return next_code


def ranking(spec: TrainSpec) -> Objective:
    """Return the ranking-guided objective at the recipe's temperature."""
    return Ranking(spec.temperature)


def softmax_dpo(spec: TrainSpec) -> Preference:
    """Return softmax DPO at the recipe's temperature, the inverse of beta."""
    return SoftmaxDpo(spec.temperature)
