"""Trains the network of a learned quantizer on Ray Train: over several workers.

Each worker computes the loss of its rows of the same step, so that the sum is that of one worker up to rounding, and
with one worker, without a GPU, the codebook is byte for byte that of a training in process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor, distributed, nn

from learning.checkpoint import load_weights
from learning.errors import LossDiverged
from learning.ray_train.launch import Progress, launch
from learning.spec import LoopSpec
from learning.trainable import Cursor
from tokenizer.quantizers.vae.network import Batch, VaeNet, share_of
from tokenizer.quantizers.vae.training import Trained, Training, batches, build, diverged, prepare

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VaeTrainable:
    """A Trainable: a fresh network, the items it learns from, and its loss."""

    training: Training

    @cached_property
    def module(self) -> VaeNet:
        """The network."""
        return build(self.training)

    @property
    def plan_hash(self) -> str:
        """Hash of spec and items: they decide the order."""
        return self.training.key

    @property
    def identity(self) -> Mapping[str, Any]:
        """What is trained on what."""
        return {"kind": self.training.spec.quantizer, "plan": self.training.key}

    def batches(self, rank: int, world: int, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
        """The rest of the cursor's epoch for one worker; `sample` counts the items of its steps.

        Code vectors are moved before the first step of an epoch, the same on all workers.
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

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the step's mean loss per item, and the sums `loss`, `targets` (items) and `tokens` (codes)."""
        share, summed, items = share_of(module, batch)
        count = torch.tensor(items, dtype=torch.float64, device=summed.device)
        return share, {"loss": summed, "targets": count, "tokens": count * len(self.training.spec.levels)}


def train_on_ray(training: Training, storage_path: str | Path, progress: Progress = logger.info) -> Trained:
    """Train on `codebook.vae.workers` workers of the running cluster; the same training, run again, resumes.

    The run lies under `storage_path` by the training's key. The vectors lie once in the object store of each machine.
    Each worker has a GPU where the cluster has as many.
    Raises TrainingFailed as `launch` does, and TrainingDiverged as a training in process.
    """
    vae = training.vae
    spec = LoopSpec(
        workers=vae.workers,
        epochs=vae.epochs,
        learning_rate=vae.learning_rate,
        warmup_steps=vae.warmup_steps,
        weight_decay=vae.weight_decay,
        seed=training.spec.seed,
    )
    make = partial(_stored, ray.put(training))
    use_gpu = ray.cluster_resources().get("GPU", 0) >= vae.workers
    try:
        result = launch(
            make, spec, f"codebook-{training.key}", storage_path, use_gpu=use_gpu, progress=progress, label="codebook"
        )
    except LossDiverged as error:
        raise diverged(error.loss) from error
    net = build(training)
    load_weights(result.checkpoint_dir, net)
    return Trained(net.arrays(), [row["loss"] for row in result.history])


def _stored(training: Any) -> VaeTrainable:
    return VaeTrainable(ray.get(training))
