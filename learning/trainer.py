"""Training of a `Trainable` in this process. `learning.ray_train.trainer` has the `Trainer` for Ray Train."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from learning.progress import Epochs, emit_epoch
from learning.threads import one_thread

if TYPE_CHECKING:
    from learning.resumable import StoredCheckpoint
    from learning.spec import LoopSpec
    from learning.trainable import Trainable

OnEpoch = Callable[[dict[str, float]], bool | None]


class Trainer(Protocol):
    """A function that trains a `Trainable` to its end."""

    def __call__(self, trainable: Trainable[Any], spec: LoopSpec, label: str) -> list[float]:
        """Train until `spec.epochs` and return the mean loss of each epoch.

        Afterwards `trainable.module` has the trained weights, on the CPU and in evaluation mode. `label` begins each
        line of progress. Raises LossDiverged if the loss or its gradient is not finite.
        """


def train_in_process(
    trainable: Trainable[Any],
    spec: LoopSpec,
    label: str,
    on_epoch: OnEpoch | None = None,
    checkpoint: StoredCheckpoint | None = None,
) -> list[float]:
    """A `Trainer`: one worker, on a GPU if there is one, else on one thread.

    `on_epoch` gets the row of each epoch (see `learning.loop.Loop.epochs`); if it returns true the training ends. With
    a `checkpoint` it goes on from there, and stores others there. The caller's random state is preserved.
    """
    import torch

    from learning.loop import Loop, WorkerContext, do_not_save

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_thread(), torch.random.fork_rng(devices=[]):
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            loop = Loop(trainable, spec, WorkerContext(prepare=lambda module: module.to(device)))
            if checkpoint is not None:
                checkpoint.load(loop)
            epochs = Epochs(label, spec.epochs, len(loop.progress.history))
            for row in loop.epochs(do_not_save if checkpoint is None else checkpoint.save):
                epochs.done(row["loss"])
                emit_epoch(label, row)
                if on_epoch is not None and on_epoch(row):
                    break
    finally:
        torch.set_num_threads(threads)
    trainable.module.cpu().eval()
    return [row["loss"] for row in loop.progress.history]
