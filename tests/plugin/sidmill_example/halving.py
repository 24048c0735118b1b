"""An objective: cross-entropy of the codes, where each level counts half as much as the one before."""

import torch
from torch import Tensor
from torch.nn import functional

from training.objectives.losses import Objective
from training.spec import TrainSpec


def halving(spec: TrainSpec) -> Objective:
    """Return the loss."""

    def loss(scores: list[Tensor], codes_NL: Tensor) -> Tensor:
        parts = [
            functional.cross_entropy(each.float(), codes_NL[:, level], reduction="sum") / 2**level
            for level, each in enumerate(scores)
        ]
        return torch.stack(parts).sum()

    return loss
