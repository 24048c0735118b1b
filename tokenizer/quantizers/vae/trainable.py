"""The network of a learned quantizer as a `Trainable` (see learning/trainable.py).

Each worker computes the loss of its rows of the same step, so the sum equals that of one worker up to rounding. With
one worker and no GPU, the codebook has the same bytes wherever it is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, distributed, nn

from learning.spec import LoopSpec
from learning.trainable import Cursor
from tokenizer.quantizers.vae.network import VaeBatch, VaeNet, share_of
from tokenizer.quantizers.vae.training import VaeInputs, batches, build, prepare


@dataclass(frozen=True)
class VaeTrainable:
    """A Trainable: a fresh network, its training items, and its loss."""

    training: VaeInputs

    @cached_property
    def module(self) -> VaeNet:
        """The network."""
        return build(self.training)

    @property
    def plan_hash(self) -> str:
        """Hash of spec and items, which determine the order."""
        return self.training.key

    @property
    def identity(self) -> Mapping[str, Any]:
        """Quantizer name and plan hash."""
        return {"kind": self.training.spec.quantizer, "plan": self.training.key}

    @property
    def loop(self) -> LoopSpec:
        """Loop settings."""
        return LoopSpec.of(self.training.vae, seed=self.training.spec.seed)

    def batches(self, rank: int, world: int, cursor: Cursor) -> Iterator[tuple[VaeBatch, Cursor]]:
        """Yield the rest of the cursor's epoch for one worker; `sample` counts the items of its steps.

        Before the first step of an epoch, code vectors are updated, identically on all workers.
        """
        if cursor.sample == 0:
            prepare(self.module, self.training, cursor.epoch)
            if world > 1:
                for tensor in (*self.module.parameters(), *self.module.buffers()):
                    distributed.broadcast(tensor.data, 0)
        size = self.training.batch_size
        done = cursor.sample // size
        for step, batch in enumerate(batches(self.training, cursor.epoch, rank, world, done), start=done + 1):
            yield batch, Cursor(cursor.plan, cursor.epoch, step * size)

    def loss(self, module: nn.Module, batch: VaeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the step's mean loss per item, and the sums `loss`, `targets` (items) and `tokens` (codes)."""
        share, summed, items = share_of(module, batch)
        count = torch.tensor(items, dtype=torch.float64, device=summed.device)
        return share, {"loss": summed, "targets": count, "tokens": count * len(self.training.spec.levels)}
