"""Training of a `Trainable` in this process, which goes on after a kill where a lake keeps its checkpoint.

`learning.ray_train.trainer` has the `Trainer` for Ray Train.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow.fs

from infra.scratch import ScratchFolder
from learning.errors import CheckpointDamaged
from learning.progress import Epochs, emit, emit_epoch
from learning.threads import one_thread
from plugins.registry import code_version

if TYPE_CHECKING:
    from learning.loop import Loop
    from learning.spec import LoopSpec
    from learning.trainable import Trainable

SAVE_S = 10.0
"""Least seconds between two checkpoints. What takes less is faster trained again than stored."""
PLACEMENT = {"workers", "cpus_per_worker", "checkpoint_steps"}
"""Settings of a loop that do not affect its weights: a training may resume with other values."""
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
                emit_epoch(label, row, spec.epochs)
                if on_epoch is not None and on_epoch(row):
                    break
    finally:
        torch.set_num_threads(threads)
    trainable.module.cpu().eval()
    return [row["loss"] for row in loop.progress.history]


def training_name(trainable: Trainable[Any], spec: LoopSpec, label: str) -> str:
    """Return the name under which a training's checkpoints are found: label, and hash of what determines the weights.

    A training with fewer epochs, or another learning rate, begins anew.
    """
    settings = spec.model_dump(mode="json", exclude=PLACEMENT)
    known_by = json.dumps([trainable.plan_hash, dict(trainable.identity), settings], sort_keys=True)
    return f"{label.lower()}-{hashlib.sha256(known_by.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class ResumableTrainer:
    """A `Trainer` as `train_in_process`; running a training again that was killed goes on after its last checkpoint.

    The checkpoint lies under `storage_path`, an absolute folder or a URI, in a folder with the `training_name`. It is
    deleted when the training ends.
    """

    storage_path: str

    def __call__(self, trainable: Trainable[Any], spec: LoopSpec, label: str) -> list[float]:
        """See `learning.trainer.Trainer`."""
        kept = StoredCheckpoint(f"{self.storage_path}/{training_name(trainable, spec, label)}-in-process", label)
        losses = train_in_process(trainable, spec, label, checkpoint=kept)
        kept.delete()
        return losses


class StoredCheckpoint:
    """The newest checkpoint of a training under a URI."""

    def __init__(self, uri: str, label: str) -> None:
        self._files, self._folder = pyarrow.fs.FileSystem.from_uri(uri)
        self._label, self._saved = label, time.monotonic()

    def load(self, loop: Loop) -> None:
        """Load the newest complete checkpoint, if there is one that this version of the code has made."""
        from learning.checkpoint import read_record

        for path in self._paths():
            try:
                with self._local(path) as directory:
                    if read_record(directory).code_version != code_version():
                        continue
                    loop.load(directory)
            except (CheckpointDamaged, FileNotFoundError):
                continue
            emit(f"{self._label}: resuming after epoch {loop.progress.cursor.epoch} of {loop.spec.epochs}")
            return

    def save(self, loop: Loop, last: bool) -> None:
        """Store a checkpoint, and delete those before it; a `learning.loop.Save`. The last one is not stored."""
        from learning.checkpoint import CheckpointRecord, State

        if last or time.monotonic() - self._saved < SAVE_S:
            return
        progress, former = loop.progress, self._paths()
        sums = dict(progress.partial_epoch_sums)
        record = CheckpointRecord(
            loop.trainable.identity, progress.cursor, progress.step, progress.history, partial_epoch_sums=sums
        )
        with ScratchFolder("checkpoint") as draft:
            State.of(loop.trainable.module, loop.optimizer).write(Path(draft), record)
            path = f"{self._folder}/step-{progress.step:09d}"
            self._files.create_dir(path)
            pyarrow.fs.copy_files(draft, path, pyarrow.fs.LocalFileSystem(), self._files)
        for each in former:
            if each != path:  # a damaged one of this step was written over
                self._delete(each)
        self._saved = time.monotonic()

    def delete(self) -> None:
        """Delete the folder, if there is one."""
        self._delete(self._folder)

    def _delete(self, folder: str) -> None:
        with suppress(FileNotFoundError):  # also where another run trains the same
            self._files.delete_dir(folder)

    def _paths(self) -> list[str]:
        """Return the folders of checkpoints, newest first."""
        found = self._files.get_file_info(pyarrow.fs.FileSelector(self._folder, allow_not_found=True))
        return sorted((each.path for each in found if each.base_name.startswith("step-")), reverse=True)

    @contextmanager
    def _local(self, path: str) -> Iterator[Path]:
        """Copy a checkpoint to a folder of this machine for a while."""
        with ScratchFolder("checkpoint") as folder:
            pyarrow.fs.copy_files(path, folder, self._files, pyarrow.fs.LocalFileSystem())
            yield Path(folder)
