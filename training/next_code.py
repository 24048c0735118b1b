"""Next-code prediction over user histories: the objective that trains a generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.generator import Generator
from training.histories import Batch, Plan, ReadBucket, batches
from training.spec import GeneratorSpec
from training.tokens import TokenLayout
from training.trainable import Cursor


def next_code_loss(module: nn.Module, layout: TokenLayout, batch: Batch) -> tuple[Tensor, int]:
    """Cross-entropy summed over the codes of the target events of this batch, and their number.

    Impressions and events that an earlier window predicted are read as context only. `module` is a Generator, or one
    wrapped for distributed training.
    """
    codes_NL = batch.tokens[:, 1:].reshape(*batch.targets.shape, layout.levels)[batch.targets]
    scores = module(batch.tokens[:, :-1], batch.feedback[:, :-1], batch.targets)
    summed = torch.zeros((), device=batch.tokens.device)
    for level, scores_NK in enumerate(scores):
        wanted_N = codes_NL[:, level] - int(layout.offsets[level])
        summed = summed + functional.cross_entropy(scores_NK.float(), wanted_N, reduction="sum")
    return summed, int(codes_NL.numel())


class NextCode:
    """A Trainable: a fresh generator, the histories it learns from, and the next-code loss."""

    def __init__(
        self,
        spec: GeneratorSpec,
        plan: Plan,
        read_bucket: ReadBucket,
        vocabulary: str,
        release: str,
        recipe: str,
    ) -> None:
        """`vocabulary` and `recipe` are hashes, `release` the id whose sequences `read_bucket` reads."""
        self.generator = Generator(spec, plan.sizes, vocabulary, plan.seed)
        self.plan, self.read_bucket = plan, read_bucket
        self.release, self.recipe = release, recipe

    @property
    def module(self) -> nn.Module:
        """The generator."""
        return self.generator

    @property
    def plan_hash(self) -> str:
        """Hash of the plan."""
        return self.plan.hash

    @property
    def identity(self) -> Mapping[str, Any]:
        """What `checkpoint.load_generator` needs to build the model again, and where it came from."""
        return {
            "kind": "generator",
            "spec": self.generator.spec.model_dump(mode="json"),
            "sizes": list(self.plan.sizes),
            "vocabulary": self.generator.vocabulary,
            "release": self.release,
            "recipe": self.recipe,
            "plan": self.plan.hash,
        }

    def batches(self, rank: int, world: int, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
        """The rest of the cursor's epoch for one worker."""
        return batches(self.plan, self.read_bucket, rank, world, cursor)

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the step's mean loss per code, and the sums `loss`, `targets` (codes) and `tokens` (read)."""
        summed, codes = next_code_loss(module, self.generator.layout, batch)
        share = summed / max(1, batch.step_targets * self.generator.layout.levels)
        read = (batch.tokens[:, :-1] != self.generator.layout.pad).sum()
        return share, {
            "loss": summed.detach().double(),
            "targets": torch.tensor(codes, dtype=torch.float64, device=summed.device),
            "tokens": read.double(),
        }
