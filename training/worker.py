"""What a worker of Ray Train does: the loop of `training.loop`, with the checkpoints that Ray Train keeps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
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
    _resume(loop, run)
    if loop.progress.cursor.epoch >= spec.epochs and ray.train.get_checkpoint() is None:
        _report(loop, last=True)  # Ray lost sight of it
    loop.run(_report)


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


def _report(loop: Loop, last: bool) -> None:
    """Hand a checkpoint to Ray Train, which stores it while training goes on; the last one is waited for."""
    progress, spec = loop.progress, loop.spec
    directory = Path(tempfile.mkdtemp(prefix="sidmill-checkpoint-"))
    mine = checkpoint.save_state(
        directory,
        loop.trainable.module,
        loop.optimizer,
        checkpoint.Record(
            loop.trainable.identity, progress.cursor, progress.step, progress.history, begun=progress.begun
        ),
        rank=loop.setting.rank,
        sharding=spec.sharding,
        whole=last or not spec.sharding,
    )
    if not mine:
        directory.rmdir()
    ray.train.report(
        {"identity": dict(loop.trainable.identity), "history": progress.history},
        checkpoint=ray.train.Checkpoint.from_directory(str(directory)) if mine else None,
        checkpoint_dir_name=f"step-{progress.step:09d}-epoch-{progress.cursor.epoch:05d}",
        checkpoint_upload_mode=CheckpointUploadMode.SYNC if last else CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )


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
