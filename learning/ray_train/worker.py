"""The function of a Ray Train worker: the loop of `learning.loop`, with checkpoints kept by Ray Train."""

from __future__ import annotations

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
from torch import distributed, nn

from infra.scratch import ScratchFolder
from learning import checkpoint
from learning.errors import CheckpointDamaged, LossDiverged, TrainingError
from learning.loop import Loop, WorkerContext
from learning.spec import LoopSpec
from learning.trainable import Trainable

MakeTrainable = Callable[[], Trainable[Any]]
Upload = Callable[[ray.train.Checkpoint, str], ray.train.Checkpoint]


def train(make_trainable: MakeTrainable, spec: LoopSpec, run: str) -> TrainingError | None:
    """Train in this worker until `spec.epochs`, from the newest complete checkpoint under the folder or URI `run`.

    Ray Train retries after a raised error, so errors that stop all workers are returned: LossDiverged, and any
    TrainingError of a single worker. `launch` raises them. Raises CheckpointMismatch if the run's checkpoints are of
    another training.
    """
    try:
        _train(make_trainable, spec, run)
    except TrainingError as error:
        if ray.train.get_context().get_world_size() > 1 and not isinstance(error, LossDiverged):
            raise  # another worker may be waiting for this one
        return error
    return None


def _train(make_trainable: MakeTrainable, spec: LoopSpec, run: str) -> None:
    torch.set_num_threads(spec.cpus_per_worker)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    prepare: Callable[[nn.Module], nn.Module] = ray.train.torch.prepare_model
    if spec.sharding:
        prepare = partial(_sharded, world=world)
    loop = Loop(make_trainable(), spec, WorkerContext(rank, world, prepare))
    save = CheckpointUploader(run, spec.sharding)
    resumed_from, recorded = _resume(loop, run), ray.train.get_checkpoint()
    if loop.progress.cursor.epoch >= spec.epochs and (recorded is None or Path(recorded.path).name != resumed_from):
        save(loop, last=True)  # Ray's record of the final checkpoint is missing
    loop.run(save)


def _sharded(module: nn.Module, world: int) -> nn.Module:
    """Shard the weights of a module over all workers (FSDP2), block by block, inner blocks first."""
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


class CheckpointUploader:
    """A `Save` that passes checkpoints to Ray Train, which stores them during training; the last one is awaited.

    Each worker copies the state it has to write, and a thread writes and stores the copy. There is one copy at a time:
    training waits if storing is slower.
    """

    def __init__(self, run: str, sharding: bool) -> None:
        """Prepare to keep checkpoints under the folder or URI `run`."""
        self._run = run
        self._group: Any = distributed.new_group(backend="gloo") if sharding else None
        self._stored = Event()
        self._stored.set()

    def __call__(self, loop: Loop, last: bool) -> None:
        """Store a checkpoint; a `Save`."""
        progress, trainable = loop.progress, loop.trainable
        history, sums = list(progress.history), dict(progress.partial_epoch_sums)
        record = checkpoint.CheckpointRecord(
            trainable.identity, progress.cursor, progress.step, history, partial_epoch_sums=sums
        )
        checkpoint_reference, upload = None, None
        if self._group is not None or loop.context.rank == 0:
            checkpoint_reference = ray.train.Checkpoint(self._run)
            upload = self._upload_of(loop, record, last)
        ray.train.report(
            {"identity": dict(record.identity), "history": history},
            checkpoint=checkpoint_reference,
            checkpoint_dir_name=f"step-{progress.step:09d}-epoch-{progress.cursor.epoch:05d}",
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if last else CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=False,
            checkpoint_upload_fn=upload,
        )

    def _upload_of(self, loop: Loop, record: checkpoint.CheckpointRecord, last: bool) -> Upload:
        """Copy the current state; return the function that writes the copy and stores it in the run under a given name.

        Ray Train may call that function again after a failed upload. A lasting failure ends all workers.
        """
        self._stored.wait()
        self._stored = stored = Event()
        module, optimizer = loop.trainable.module, loop.optimizer
        # A list, so that the copy can be freed: Ray Train keeps the function.
        unwritten: list[checkpoint.State | checkpoint.Shards] = []
        if self._group is None:
            unwritten.append(checkpoint.State.of(module, optimizer))
        else:
            unwritten.append(checkpoint.Shards.of(module, optimizer, self._group, whole=last))
        storage = ray.train.get_context().get_storage()
        draft = ScratchFolder("checkpoint")

        def upload(_: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
            if unwritten:
                unwritten[0].write(draft.path, record)
                unwritten.clear()
            done = storage.persist_current_checkpoint(ray.train.Checkpoint.from_directory(draft.name), name)
            draft.cleanup()
            stored.set()
            return done

        return upload


def _resume(loop: Loop, run: str) -> str | None:
    """Load the newest complete checkpoint of the run and return its name, or None to start from scratch.

    The storage itself is searched: Ray Train's own record is unusable once a checkpoint that it names is gone.
    """
    files, folder = pyarrow.fs.FileSystem.from_uri(run)
    found = files.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
    for path in sorted((each.path for each in found if each.base_name.startswith("step-")), reverse=True):
        try:
            with ray.train.Checkpoint(path, files).as_directory() as directory:
                loop.load(Path(directory))
        except (CheckpointDamaged, FileNotFoundError):
            continue
        return Path(path).name
    return None
