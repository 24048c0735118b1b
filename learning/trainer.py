"""Train a `Trainable`: in this process, or on Ray Train by the `Trainer` of learning/ray_train/trainer.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from learning.progress import Epochs
from learning.threads import one_thread

if TYPE_CHECKING:
    from learning.spec import LoopSpec
    from learning.trainable import Trainable

OnEpoch = Callable[[dict[str, float]], bool | None]


class Trainer(Protocol):
    """Trains what it is given, wherever it does that."""

    def __call__(self, trainable: Trainable[Any], spec: LoopSpec, label: str) -> list[float]:
        """Train until `spec.epochs` and return the mean loss of each epoch.

        `trainable.module` then has the trained weights, on the CPU and in evaluation mode. `label` begins each line of
        progress. Raises LossDiverged where the loss or its gradient is not finite.
        """


def train_in_process(
    trainable: Trainable[Any], spec: LoopSpec, label: str, on_epoch: OnEpoch | None = None
) -> list[float]:
    """A `Trainer`: one worker, on a GPU where there is one, else on one thread, without checkpoints.

    `on_epoch` gets the row of each epoch (see `learning.loop.Loop.epochs`); when it returns true the training ends. The
    random state of the caller stays as it is.
    """
    import torch

    from learning.loop import Loop, WorkerContext

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_thread(), torch.random.fork_rng(devices=[]):
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            loop = Loop(trainable, spec, WorkerContext(prepare=lambda module: module.to(device)))
            epochs = Epochs(label, spec.epochs)
            for row in loop.epochs():
                epochs.done(row["loss"])
                if on_epoch is not None and on_epoch(row):
                    break
    finally:
        torch.set_num_threads(threads)
    trainable.module.cpu().eval()
    return [row["loss"] for row in loop.progress.history]
