"""Trainings in the process of the test, where what they train is asked about and not how workers share it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from learning import checkpoint
from learning.loop import Loop
from learning.ray_train.launch import TrainResult
from learning.trainable import Trainable
from training.spec import TrainSpec


def trained_here(
    make: Callable[[], Trainable[Any]], spec: TrainSpec, name: str, storage_path: str | Path, **others: Any
) -> TrainResult:
    """As `learning.ray_train.launch.launch`, by one worker and without Ray."""
    folder = Path(storage_path) / name

    def save(loop: Loop, last: bool) -> None:
        progress = loop.progress
        record = checkpoint.CheckpointRecord(loop.trainable.identity, progress.cursor, progress.step, progress.history)
        checkpoint.State.of(loop.trainable.module, loop.optimizer).write(folder, record)

    folder.mkdir(parents=True, exist_ok=True)
    loop = Loop(make(), spec)
    loop.run(save)
    return TrainResult(folder, loop.progress.history)
