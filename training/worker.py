"""The loop that every training worker runs: steps, one checkpoint an epoch, and where to go on after a restart."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from torch import distributed, nn

from tokenizer.descent import adamw, learning_rate, take_step
from training import checkpoint
from training.spec import TrainSpec
from training.trainable import Cursor, Trainable

MakeTrainable = Callable[[], Trainable[Any]]
OPTIMIZER = "optimizer.pt"


@dataclass
class Progress:
    """How far a training is: the next sample, the steps taken, and one row an epoch."""

    cursor: Cursor
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def train(make_trainable: MakeTrainable, spec: TrainSpec) -> None:
    """Train in this worker until `spec.epochs`, from the run's last checkpoint if it has one.

    Weights, optimizer, cursor and random state are those of an uninterrupted run at every epoch's start. Raises
    CheckpointMismatch when the run's checkpoints are of another training.
    """
    torch.set_num_threads(spec.cpus_per_worker)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    trainable = make_trainable()
    stored = ray.train.get_checkpoint()
    progress = Progress(Cursor(trainable.plan_hash)) if stored is None else _resume(trainable, stored)
    module = ray.train.torch.prepare_model(trainable.module)
    # After the model, for the optimizer's state has to follow the weights to their device.
    optimizer = adamw(trainable.module, spec.learning_rate, spec.weight_decay)
    if stored is not None:
        with stored.as_directory() as directory:
            optimizer.load_state_dict(torch.load(Path(directory) / OPTIMIZER, "cpu", weights_only=True))
    while progress.cursor.epoch < spec.epochs:
        torch.manual_seed(_seed(spec.seed, progress.cursor.epoch, rank))
        row = _train_epoch(trainable, module, optimizer, spec, progress, rank, world)
        progress.history.append(row)
        progress.cursor = Cursor(trainable.plan_hash, progress.cursor.epoch + 1)
        _report(trainable, optimizer, progress, rank)


def _train_epoch(
    trainable: Trainable[Any],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    spec: TrainSpec,
    progress: Progress,
    rank: int,
    world: int,
) -> dict[str, float]:
    """Take the steps of the cursor's epoch; returns the epoch's row, with sums over all workers."""
    began = time.perf_counter()
    device = next(module.parameters()).device
    sums: Counter[str] = Counter()
    module.train()
    for batch, cursor in trainable.batches(rank, world, progress.cursor):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            share, metrics = trainable.loss(module, batch.to(device))
        # Distributed training averages gradients over ranks; the shares are meant to be added.
        rate = learning_rate(spec.learning_rate, spec.warmup_steps, progress.step)
        take_step(module, optimizer, share * world, rate)
        sums.update(metrics)
        progress.step, progress.cursor = progress.step + 1, cursor
    names = sorted(sums)
    totals = torch.stack([torch.as_tensor(sums[name]) for name in names]) if names else torch.zeros(0)
    if world > 1:
        distributed.all_reduce(totals)
    total = dict(zip(names, totals.tolist(), strict=True))
    seconds = time.perf_counter() - began
    return {
        "epoch": progress.cursor.epoch,
        "loss": total.get("loss", 0.0) / max(1.0, total.get("targets", 0.0)),
        "targets": total.get("targets", 0.0),
        "tokens": total.get("tokens", 0.0),
        "tokens_per_s": total.get("tokens", 0.0) / seconds,
        "seconds": seconds,
    }


def _report(trainable: Trainable[Any], optimizer: torch.optim.Optimizer, progress: Progress, rank: int) -> None:
    """Hand the epoch's checkpoint to Ray Train; it returns when the checkpoint lies in the run's storage."""
    name = f"epoch-{progress.cursor.epoch:05d}"
    with _scratch(rank == 0) as directory:
        stored = None
        if directory is not None:
            torch.save(optimizer.state_dict(), directory / OPTIMIZER)
            checkpoint.save(
                directory,
                trainable.module,
                trainable.identity,
                progress.cursor,
                progress.step,
                progress.history,
            )
            stored = ray.train.Checkpoint.from_directory(str(directory))
        row = {"identity": dict(trainable.identity), "history": progress.history}
        ray.train.report(row, checkpoint=stored, checkpoint_dir_name=name)


@contextmanager
def _scratch(wanted: bool) -> Iterator[Path | None]:
    if not wanted:
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def _resume(trainable: Trainable[Any], stored: ray.train.Checkpoint) -> Progress:
    """Load the run's last checkpoint into the module, if it is one of the same training."""
    with stored.as_directory() as directory:
        record = checkpoint.read_record(Path(directory))
        checkpoint.require_same(stored.path, record.identity, trainable.identity)
        checkpoint.load_weights(Path(directory), trainable.module)
    return Progress(record.cursor, record.step, list(record.history))


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
