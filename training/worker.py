"""What a worker of Ray Train does: the loop of `training.loop`, with the checkpoints that Ray Train keeps."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow.fs
import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointUploadMode
from torch import nn

from training import checkpoint
from training.errors import CheckpointDamaged, LossDiverged, TrainingError
from training.loop import Loop, Setting
from training.spec import TrainSpec
from training.trainable import Trainable

MakeTrainable = Callable[[], Trainable[Any]]
Upload = Callable[[ray.train.Checkpoint, str], ray.train.Checkpoint]


def train(make_trainable: MakeTrainable, spec: TrainSpec, run: str) -> TrainingError | None:
    """Train in this worker until `spec.epochs`, from the newest whole checkpoint below the folder or URI `run`.

    Returns the error that all workers stop with, for what is raised Ray Train tries again: LossDiverged, and whatever
    stops the only one. Raises CheckpointMismatch when the run's checkpoints are of another training.
    """
    try:
        _train(make_trainable, spec, run)
    except TrainingError as error:
        if ray.train.get_context().get_world_size() > 1 and not isinstance(error, LossDiverged):
            raise  # another worker may wait for this one
        return error
    return None


def _train(make_trainable: MakeTrainable, spec: TrainSpec, run: str) -> None:
    torch.set_num_threads(spec.cpus_per_worker)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    prepare: Callable[[nn.Module], nn.Module] = ray.train.torch.prepare_model
    if spec.sharding:
        prepare = partial(_sharded, world=world)
    loop = Loop(make_trainable(), spec, Setting(rank, world, prepare))
    keep = Keep(run)
    _resume(loop, run)
    if loop.progress.cursor.epoch >= spec.epochs and ray.train.get_checkpoint() is None:
        keep(loop, last=True)  # Ray lost sight of it
    loop.run(keep)


def _sharded(module: nn.Module, world: int) -> nn.Module:
    """The module with its weights spread over all workers (FSDP2), block by block, those within others first."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = ray.train.torch.get_device()
    mesh = init_device_mesh(device.type, (world,))
    module.to(device)
    for part in reversed(list(module.modules())):
        if isinstance(part, nn.ModuleList):
            for block in part:
                if any(True for _ in block.children()):
                    fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


class Keep:
    """Hands checkpoints of a loop to Ray Train, which stores them while training goes on; the last is waited for.

    Weights that are whole on a worker are copied in its memory, and a thread writes and stores the copy, the record
    last. There is one copy at a time: training waits where storing is slower.
    """

    def __init__(self, run: str) -> None:
        """`run` is the folder or URI that checkpoints lie below."""
        self._run = run
        self._free = Event()
        self._free.set()

    def __call__(self, loop: Loop, last: bool) -> None:
        """What `Loop.run` calls."""
        progress, rank, trainable = loop.progress, loop.setting.rank, loop.trainable
        history = list(progress.history)
        record = checkpoint.Record(
            trainable.identity, progress.cursor, progress.step, history, begun=dict(progress.begun)
        )
        local, upload = None, None
        if loop.spec.sharding:
            local = ray.train.Checkpoint.from_directory(tempfile.mkdtemp(prefix="sidmill-checkpoint-"))
            directory = Path(local.path)
            checkpoint.save_sharded(directory, trainable.module, loop.optimizer, record, rank=rank, whole=last)
        elif rank == 0:
            local = ray.train.Checkpoint.from_directory(tempfile.mkdtemp(prefix="sidmill-checkpoint-"))
            upload = self._copied(loop, record)
        ray.train.report(
            {"identity": dict(trainable.identity), "history": history},
            checkpoint=local,
            checkpoint_dir_name=f"step-{progress.step:09d}-epoch-{progress.cursor.epoch:05d}",
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if last else CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
            checkpoint_upload_fn=upload,
        )

    def _copied(self, loop: Loop, record: checkpoint.Record) -> Upload:
        """Copy the state of now; what comes back writes the copy into a local folder and from there below the run."""
        self._free.wait()
        self._free = free = Event()
        state = checkpoint.State.of(loop.trainable.module, loop.optimizer)
        weakref.finalize(state, free.set)  # also where Ray Train never asks for it

        def upload(local: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
            try:
                state.write(Path(local.path), record)
                files, folder = pyarrow.fs.FileSystem.from_uri(f"{self._run}/{name}")
                files.create_dir(folder)
                for path in sorted(Path(local.path).iterdir(), key=lambda path: path.name == checkpoint.RECORD):
                    pyarrow.fs.copy_files(str(path), f"{folder}/{path.name}", destination_filesystem=files)
                return ray.train.Checkpoint(folder, files)
            finally:
                free.set()

        return upload


def _resume(loop: Loop, run: str) -> None:
    """Load the newest checkpoint of the run that is whole; where none is, training begins anew.

    They are looked for where they lie: Ray Train's own record is of no use once one that it names is gone.
    """
    files, folder = pyarrow.fs.FileSystem.from_uri(run)
    found = files.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
    for path in sorted((each.path for each in found if each.base_name.startswith("step-")), reverse=True):
        try:
            with ray.train.Checkpoint(path, files).as_directory() as directory:
                loop.load(Path(directory))
        except (CheckpointDamaged, FileNotFoundError):
            continue
        return
