"""The training loop: steps, checkpoints and resumption after a restart.

`learning.ray_train.worker` runs it in a worker of Ray Train, `learning.trainer.train_in_process` in this process.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn

from learning import checkpoint
from learning.errors import LossDiverged, StepNotFinite
from learning.optimizer import adamw, learning_rate, take_step
from learning.prefetcher import Prefetcher
from learning.spec import LoopSpec
from learning.trainable import Cursor, Trainable

Sums = defaultdict[str, Any]


@dataclass(frozen=True)
class WorkerContext:
    """A worker's rank, the number of workers, and the function that prepares a module."""

    rank: int = 0
    world: int = 1
    prepare: Callable[[nn.Module], nn.Module] = lambda module: module


@dataclass
class Progress:
    """Progress of a training: next sample, steps taken, one row per epoch, and sums of the unfinished epoch."""

    cursor: Cursor
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    partial_epoch_sums: dict[str, float] = field(default_factory=dict)


Save = Callable[["Loop", bool], None]
"""A function that keeps a checkpoint. All workers call it at the same step; true marks the last checkpoint."""


def do_not_save(loop: Loop, last: bool) -> None:
    """Keep no checkpoint; a `Save`."""


class Loop:
    """A training in progress. A restart restores weights, optimizer, cursor and random state exactly."""

    def __init__(self, trainable: Trainable[Any], spec: LoopSpec, context: WorkerContext | None = None) -> None:
        self.trainable, self.spec, self.context = trainable, spec, context or WorkerContext()
        self.progress = Progress(Cursor(trainable.plan_hash))
        self.module = self.context.prepare(trainable.module)
        # Created after the model is on its device, so that the optimizer's state is there too.
        self.optimizer = adamw(trainable.module, spec.learning_rate, spec.weight_decay)

    def load(self, directory: Path) -> None:
        """Resume from a checkpoint. Raises CheckpointMismatch if it is of another training."""
        record = checkpoint.read_record(directory)
        checkpoint.require_same(str(directory), record.identity, self.trainable.identity)
        checkpoint.load_state(directory, self.trainable.module, self.optimizer, self.spec.sharding)
        self.progress = Progress(record.cursor, record.step, list(record.history), dict(record.partial_epoch_sums))

    def run(self, save: Save) -> None:
        """Train until `spec.epochs`, as `epochs` does."""
        for _ in self.epochs(save):
            pass

    def epochs(self, save: Save = do_not_save) -> Iterator[dict[str, float]]:
        """Train until `spec.epochs`; yield the row of each epoch after `save` has been called.

        A row has epoch, steps, mean loss, targets, tokens, tokens_per_s, seconds, data_wait (the share of time spent
        waiting for batches) and padding. Raises LossDiverged, on all workers, before a step would spoil the weights.
        """
        while self.progress.cursor.epoch < self.spec.epochs:
            self.progress.history.append(self._epoch(save))
            self.progress.cursor = Cursor(self.trainable.plan_hash, self.progress.cursor.epoch + 1)
            self.progress.partial_epoch_sums = {}
            save(self, self.progress.cursor.epoch == self.spec.epochs)
            yield self.progress.history[-1]

    def _epoch(self, save: Save) -> dict[str, float]:
        """Run the remaining steps of the cursor's epoch. Returns its row, summed over all workers."""
        progress, every = self.progress, self.spec.checkpoint_steps
        device = next(self.module.parameters()).device
        rank, world = self.context.rank, self.context.world
        sums = _sums(progress, rank)
        self.module.train()
        began = time.perf_counter()
        with Prefetcher(self.trainable.batches(rank, world, progress.cursor)) as prefetched:
            for batch, cursor in prefetched:
                torch.manual_seed(_seed(self.spec.seed, progress.step, rank))
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    share, metrics = self.trainable.loss(self.module, batch.to(device))
                # Distributed training averages gradients over ranks; times `world`, it sums the shares.
                try:
                    take_step(self.module, self.optimizer, share * world, self._rate())
                except StepNotFinite as error:
                    raise self._diverged(batch, metrics) from error
                for name, value in metrics.items():
                    sums[name] += value.double()
                sums["steps"] += int(rank == 0)
                progress.step, progress.cursor = progress.step + 1, cursor
                if every and progress.step % every == 0:
                    sums["waited"] += prefetched.waited
                    sums["seconds"] += time.perf_counter() - began
                    progress.partial_epoch_sums = self._total(sums)
                    sums = _sums(progress, rank)
                    save(self, False)
                    began, prefetched.waited = time.perf_counter(), 0.0
            sums["waited"] += prefetched.waited
        sums["seconds"] += time.perf_counter() - began
        total = self._total(sums)
        seconds = total["seconds"] / world
        return {
            "epoch": progress.cursor.epoch,
            "steps": total.get("steps", 0.0),
            "loss": total.get("loss", 0.0) / max(1.0, total.get("targets", 0.0)),
            "targets": total.get("targets", 0.0),
            "tokens": total.get("tokens", 0.0),
            "tokens_per_s": total.get("tokens", 0.0) / seconds,
            "seconds": seconds,
            "data_wait": total["waited"] / total["seconds"],
            **({"padding": 1 - total["tokens"] / max(1.0, total["places"])} if "places" in total else {}),
        }

    def _diverged(self, batch: Any, metrics: Mapping[str, Any]) -> LossDiverged:
        """Return the error that every worker raises, with mean loss and events of the whole step."""
        total = self._total({name: metrics[name] for name in ("loss", "targets")})
        events = [batch.event_ids.to_pylist() if hasattr(batch, "event_ids") else []]
        if self.context.world > 1:
            own, events = events[0], [[]] * self.context.world
            distributed.all_gather_object(events, own)
        return LossDiverged(total["loss"] / max(1.0, total["targets"]), [event for each in events for event in each])

    def _total(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Return the sums over all workers."""
        names = sorted(sums)
        totals = torch.stack([torch.as_tensor(sums[name], dtype=torch.float64).cpu() for name in names])
        if self.context.world > 1:
            device = next(self.module.parameters()).device
            totals = totals.to(device)
            distributed.all_reduce(totals)
        return dict(zip(names, totals.tolist(), strict=True))

    def _rate(self) -> float:
        """Return the learning rate of the next step.

        The cosine depends on the total number of steps, which is known after the first epoch. Until then the rate stays
        at its peak, after warm-up.
        """
        spec, progress = self.spec, self.progress
        if spec.schedule == "inverse_sqrt":
            return learning_rate(spec.learning_rate, spec.warmup_steps, progress.step)
        done = progress.step / max(1.0, progress.history[0]["steps"] * spec.epochs) if progress.history else 0.0
        fallen = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return spec.learning_rate * min(1.0, (progress.step + 1) / spec.warmup_steps) * fallen


def _sums(progress: Progress, rank: int) -> Sums:
    """Return sums of the epoch so far. All workers have the same names; only rank 0 has the values."""
    return defaultdict(
        float, {name: value if rank == 0 else 0.0 for name, value in progress.partial_epoch_sums.items()}
    )


def _seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of a step's dropout. It depends on the step, so a restart continues with the same numbers."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
