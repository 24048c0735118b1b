"""The training loop: steps, checkpoints, and where to go on after a restart. What it runs on is somebody else's.

`learning.ray_train.worker` runs it in a worker of Ray Train; a process of its own runs it with `Setting()`.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import distributed, nn

from learning import checkpoint
from learning.errors import LossDiverged, TrainingDiverged
from learning.optimizer import adamw, learning_rate, take_step
from learning.spec import LoopSpec
from learning.trainable import Cursor, Trainable

AHEAD = 4
"""Batches made before they are asked for."""
T = TypeVar("T")
Sums = defaultdict[str, Any]


@dataclass(frozen=True)
class Setting:
    """Which worker of how many this is, and how a module is made ready for them."""

    rank: int = 0
    world: int = 1
    prepare: Callable[[nn.Module], nn.Module] = lambda module: module


@dataclass
class Progress:
    """How far a training is: the next sample, the steps taken, one row an epoch, and the sums of an epoch begun."""

    cursor: Cursor
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    begun: dict[str, float] = field(default_factory=dict)


Save = Callable[["Loop", bool], None]
"""Keeps a checkpoint of a loop, which every worker calls at the same step; true for the last of the training."""


class Loop:
    """A training under way. Weights, optimizer, cursor and random state after a restart are those of a run without."""

    def __init__(self, trainable: Trainable[Any], spec: LoopSpec, setting: Setting | None = None) -> None:
        self.trainable, self.spec, self.setting = trainable, spec, setting or Setting()
        self.progress = Progress(Cursor(trainable.plan_hash))
        self.module = self.setting.prepare(trainable.module)
        # After the model, for the optimizer's state has to follow the weights to their device.
        self.optimizer = adamw(trainable.module, spec.learning_rate, spec.weight_decay)

    def load(self, directory: Path) -> None:
        """Go on from a checkpoint. Raises CheckpointMismatch if it is of another training."""
        record = checkpoint.read_record(directory)
        checkpoint.require_same(str(directory), record.identity, self.trainable.identity)
        checkpoint.load_state(directory, self.trainable.module, self.optimizer, self.spec.sharding)
        self.progress = Progress(record.cursor, record.step, list(record.history), dict(record.begun))

    def run(self, save: Save) -> None:
        """Train until `spec.epochs`. Raises LossDiverged, on all workers, before a step would spoil the weights."""
        while self.progress.cursor.epoch < self.spec.epochs:
            self.progress.history.append(self._epoch(save))
            self.progress.cursor = Cursor(self.trainable.plan_hash, self.progress.cursor.epoch + 1)
            self.progress.begun = {}
            save(self, self.progress.cursor.epoch == self.spec.epochs)

    def _epoch(self, save: Save) -> dict[str, float]:
        """The steps of the cursor's epoch; returns its row, with sums over all workers."""
        progress, every = self.progress, self.spec.checkpoint_steps
        device = next(self.module.parameters()).device
        rank, world = self.setting.rank, self.setting.world
        sums = _sums(progress, rank)
        self.module.train()
        began = time.perf_counter()
        with Ahead(self.trainable.batches(rank, world, progress.cursor)) as ahead:
            for batch, cursor in ahead:
                torch.manual_seed(_seed(self.spec.seed, progress.step, rank))
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    share, metrics = self.trainable.loss(self.module, batch.to(device))
                # Distributed training averages gradients over ranks; the shares are meant to be added.
                try:
                    take_step(self.module, self.optimizer, share * world, self._rate())
                except TrainingDiverged as error:
                    raise self._diverged(batch, metrics) from error
                for name, value in metrics.items():
                    sums[name] += value
                sums["steps"] += int(rank == 0)
                progress.step, progress.cursor = progress.step + 1, cursor
                if every and progress.step % every == 0:
                    sums["waited"] += ahead.waited
                    sums["seconds"] += time.perf_counter() - began
                    progress.begun = self._total(sums)
                    sums = _sums(progress, rank)
                    save(self, False)
                    began, ahead.waited = time.perf_counter(), 0.0
            sums["waited"] += ahead.waited
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
        """The error that every worker raises: mean loss and events of the whole step."""
        total = self._total({name: metrics[name] for name in ("loss", "targets")})
        events = [batch.event_ids.to_pylist() if hasattr(batch, "event_ids") else []]
        if self.setting.world > 1:
            own, events = events[0], [[]] * self.setting.world
            distributed.all_gather_object(events, own)
        return LossDiverged(total["loss"] / max(1.0, total["targets"]), [event for each in events for event in each])

    def _total(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """The sums over all workers."""
        names = sorted(sums)
        totals = torch.stack([torch.as_tensor(sums[name], dtype=torch.float64).cpu() for name in names])
        if self.setting.world > 1:
            device = next(self.module.parameters()).device
            totals = totals.to(device)
            distributed.all_reduce(totals)
        return dict(zip(names, totals.tolist(), strict=True))

    def _rate(self) -> float:
        """The learning rate of the next step. A cosine falls with the share of all steps that are taken, of which
        nobody knows the number before the first epoch is over: until then it stays at its peak."""
        spec, progress = self.spec, self.progress
        if spec.schedule == "inverse_sqrt":
            return learning_rate(spec.learning_rate, spec.warmup_steps, progress.step)
        done = progress.step / max(1.0, progress.history[0]["steps"] * spec.epochs) if progress.history else 0.0
        fallen = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return spec.learning_rate * min(1.0, (progress.step + 1) / spec.warmup_steps) * fallen


class Ahead(Generic[T]):
    """An iterator that another thread runs, up to AHEAD items ahead; `waited` are the seconds it was waited for."""

    def __init__(self, items: Iterator[T]) -> None:
        self.waited = 0.0
        self._items = items
        self._made: Queue[tuple[T | None, Exception | None]] = Queue(AHEAD)
        self._over = Event()
        self._maker = Thread(target=self._make, name="batches", daemon=True)

    def __enter__(self) -> Ahead[T]:
        self._maker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        while self._maker.is_alive():  # one that waits for room
            while not self._made.empty():
                self._made.get_nowait()
            self._maker.join(0.01)

    def __iter__(self) -> Iterator[T]:
        while True:
            began = time.perf_counter()
            item, error = self._made.get()
            self.waited += time.perf_counter() - began
            if error is not None:
                if isinstance(error, StopIteration):
                    return
                raise error
            assert item is not None
            yield item

    def _make(self) -> None:
        try:
            for item in self._items:
                if self._over.is_set():
                    return
                self._made.put((item, None))
            self._made.put((None, StopIteration()))
        except Exception as error:  # noqa: BLE001  (it is raised where the items are asked for)
            self._made.put((None, error))


def _sums(progress: Progress, rank: int) -> Sums:
    """The sums of the epoch so far, the same names for every worker; they count once."""
    return defaultdict(float, {name: value if rank == 0 else 0.0 for name, value in progress.begun.items()})


def _seed(seed: int, step: int, rank: int) -> int:
    """Dropout of a step has a seed of its own, so that a restart goes on with the same numbers."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
