"""Training of a `Trainable` on Ray Train, up to a checkpoint directory. Only this module starts Ray Train.

A run is identified by (storage_path, name). Running it again resumes from its newest checkpoint, or returns at once
when it is done; with more epochs it continues from its end. The caller initialises Ray, with one CPU more than the
workers use if Ray Data feeds them.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

import pyarrow.fs
import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    LoggingConfig,
    Result,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer

# Not in Ray's public API: errors for a half-written record of a run, and for workers that cannot be placed.
from ray.train.v2._internal.exceptions import (
    CheckpointManagerInitializationError,
    WorkerGroupStartupTimeoutError,
)

from infra.scratch import ScratchFolder
from learning.checkpoint import read_record, require_same
from learning.errors import CheckpointDamaged, NotEnoughCpus, TrainingError, TrainingFailed
from learning.progress import EpochCallback, LineCallback
from learning.ray_train.placement import ReleasePlacement
from learning.ray_train.worker import MakeTrainable, train
from learning.spec import LoopSpec

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Calls of Ray Train before its controller's failure is final."""
BACKOFF_S = 5.0
"""Seconds to wait after the first failed attempt, times the number of attempts later."""
POLL_S = 1.0
"""Seconds between two reads of the progress from storage."""
ABORT_S = 10.0
"""Seconds that the controller has to answer a Ctrl-C."""
KEEPS_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""Worker environment that makes glibc keep freed memory, because the next step allocates the same amount."""
RAYS_RECORD = "checkpoint_manager_snapshot.json"
"""File in which Ray Train records the checkpoints of a run."""

EpochRow = dict[str, float]


@dataclass(frozen=True)
class Listener:
    """Receiver of a training's reports: `progress` gets plain lines, `on_epoch` the label and the row of each epoch."""

    progress: LineCallback = logger.info
    on_epoch: EpochCallback | None = None


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its last checkpoint on this machine, and one row per epoch (see `Loop.epochs`).

    For a run in a remote store the checkpoint is a copy, deleted together with this object.
    """

    checkpoint_dir: Path
    history: list[EpochRow]
    copy: ScratchFolder | None = field(default=None, compare=False)


LOGGED = Listener()
"""Lines go to the log of this module."""


def launch(
    make_trainable: MakeTrainable,
    spec: LoopSpec,
    name: str,
    storage_path: str | Path,
    *,
    listener: Listener = LOGGED,
    label: str = "train",
) -> TrainResult:
    """Train until `spec.epochs` on `spec.workers` workers of the running Ray cluster.

    Each worker has a GPU if the cluster has one for each.

    `make_trainable` is pickled and called in each worker, and here before a resume. `storage_path` is a folder, or, on
    several machines, a URI that all of them can reach. The `listener` gets one line per epoch, prefixed with `label`,
    and the row of the epoch.
    Workers that die are replaced twice. If the controller gives up (for example because a worker dies while the group
    starts), there are three attempts in all. Raises CheckpointMismatch if the run holds another training, NotEnoughCpus
    if the workers cannot be placed, LossDiverged after a single attempt, TrainingFailed, or the TrainingError that a
    worker raised.
    """
    progress = listener.progress
    storage = str(storage_path) if "://" in str(storage_path) else str(Path(storage_path).resolve())
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    done = _begun(storage, name, progress)
    if done is not None and done.metrics is not None:
        require_same(f"{storage}/{name}", done.metrics["identity"], make_trainable().identity)
    if done is None or len(_history(done)) < spec.epochs:
        _check_cluster_capacity(spec, progress)
        reported = 0 if done is None else len(_history(done))
        if reported:
            progress(f"{label}: resuming after epoch {reported} of {spec.epochs}")
        with _report_epochs(partial(_stored, storage, name), spec.epochs, label, listener, reported):
            done = _fit(make_trainable, spec, name, storage, progress)
    checkpoint = done.checkpoint
    if checkpoint is None:
        raise TrainingFailed(
            f"the training in {storage}/{name} ended without a checkpoint; delete that folder and run again"
        )
    if isinstance(checkpoint.filesystem, pyarrow.fs.LocalFileSystem):
        return TrainResult(Path(checkpoint.path), _history(done))
    copy = ScratchFolder("model")
    return TrainResult(Path(checkpoint.to_directory(copy.name)), _history(done), copy)


def forget(name: str, storage_path: str) -> None:
    """Delete the stored files of a run, if there are any."""
    filesystem, path = pyarrow.fs.FileSystem.from_uri(f"{storage_path}/{name}")
    if filesystem.get_file_info(path).type is not pyarrow.fs.FileType.NotFound:
        filesystem.delete_dir(path)


def _fit(
    make_trainable: MakeTrainable,
    spec: LoopSpec,
    name: str,
    storage: str,
    progress: LineCallback,
) -> Result:
    """Fit, and retry if the controller gives up. Every failure becomes a TrainingError."""
    where = f"training {name} in {storage}"
    for attempt in range(1, ATTEMPTS + 1):
        try:
            result = _fit_once(make_trainable, spec, name, storage)
            if isinstance(result.return_value, TrainingError):
                raise result.return_value
            return result
        except ControllerError as error:
            if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
                raise NotEnoughCpus(
                    f"{where}: the cluster has no room for {spec.workers} workers of {spec.cpus_per_worker} CPUs; "
                    "use fewer workers or free CPUs in the cluster, then run again: the training resumes"
                ) from error
            if attempt == ATTEMPTS:
                raise TrainingFailed(
                    f"{where}: Ray Train failed {ATTEMPTS} times, the last time with: {_last_line(error)}; "
                    "fix the cause and run again: the training resumes"
                ) from error
            wait = BACKOFF_S * attempt
            progress(f"{where}: Ray Train failed ({_last_line(error)}), trying again in {wait:.0f} s")
        except WorkerGroupError as error:
            for failure in error.worker_failures.values():
                # Ray wraps the worker's exception in one that carries the traceback as text.
                raised = getattr(failure, "_base_exc", failure)
                if isinstance(raised, TrainingError):
                    raise raised from error
            causes = "; ".join(sorted({_last_line(failure) for failure in error.worker_failures.values()}))
            raise TrainingFailed(
                f"{where}: workers failed more than twice, the last time with: {causes}; fix the cause and run again: "
                "the training resumes"
            ) from error
        except TrainingFailedError as error:
            raise TrainingFailed(f"{where}: {error}; run again: the training resumes") from error
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """A TorchTrainer that Ctrl-C stops at any time.

    Ray Train's own handler waits for the controller, which does not answer while workers cannot be placed.
    """

    def _register_sigint_handler(self, controller: Any) -> None:
        def stop(*_: object) -> None:
            with suppress(RayActorError, GetTimeoutError):
                ray.get(controller.abort.remote(), timeout=ABORT_S)
            ray.kill(controller)
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, stop)


def _fit_once(make_trainable: MakeTrainable, spec: LoopSpec, name: str, storage: str) -> Result:
    """Fit once, and restore the caller's Ctrl-C handler afterwards."""
    use_gpu = ray.cluster_resources().get("GPU", 0) >= spec.workers
    trainer = _Trainer(
        partial(train, make_trainable, spec, f"{storage}/{name}"),
        scaling_config=ScalingConfig(
            num_workers=spec.workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": spec.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[ReleasePlacement()],
            worker_runtime_env={"env_vars": KEEPS_MEMORY},
            # Workers that cannot be placed fail after a minute each time; the default retries for ever.
            failure_config=FailureConfig(max_failures=2, controller_failure_limit=4),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    before = signal.getsignal(signal.SIGINT)
    try:
        return trainer.fit()
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _check_cluster_capacity(spec: LoopSpec, progress: LineCallback) -> None:
    """Report the wait for CPUs if the cluster is smaller than the run but may grow.

    A cluster started on this machine cannot grow: raises NotEnoughCpus.
    """
    needed, there = spec.workers * spec.cpus_per_worker, ray.cluster_resources().get("CPU", 0)
    if there >= needed:
        return
    short = f"{spec.workers} workers of {spec.cpus_per_worker} CPUs need {needed} CPUs, and the cluster has {there:.0f}"
    if not os.environ.get("RAY_ADDRESS"):
        raise NotEnoughCpus(f"{short}: use fewer workers, or set RAY_ADDRESS to a cluster with more CPUs")
    progress(f"{short}: waiting for more CPUs; to go on now, stop this run and use fewer workers")


def _stored(storage: str, name: str) -> Result | None:
    """Return the stored state of the run, or None if it has not begun."""
    try:
        return Result.from_path(f"{storage}/{name}")
    except RuntimeError:
        return None


def _begun(storage: str, name: str, progress: LineCallback) -> Result | None:
    """Return the stored state of an earlier launch.

    None if Ray's record is corrupt or the last checkpoint is incomplete. Then the record is deleted, and the workers
    resume from the newest complete checkpoint.
    """
    filesystem, path = pyarrow.fs.FileSystem.from_uri(f"{storage}/{name}")
    try:
        stored = _stored(storage, name)
        if stored is None or _whole(stored):
            return stored
        fault = "the last checkpoint is damaged or incomplete"
    except CheckpointManagerInitializationError as error:
        fault = _last_line(error)
    progress(f"{storage}/{name}: {fault}; resuming from the newest intact checkpoint")
    filesystem.delete_file(f"{path}/{RAYS_RECORD}")
    return None


def _whole(result: Result) -> bool:
    """Return whether the last checkpoint of a run has all files that its record names."""
    if result.checkpoint is None:
        return False
    try:
        with result.checkpoint.as_directory() as directory:
            read_record(Path(directory))
    except (CheckpointDamaged, FileNotFoundError):
        return False
    return True


def _history(result: Result) -> list[EpochRow]:
    return list((result.metrics or {}).get("history", []))


@contextmanager
def _report_epochs(
    read: Callable[[], Result | None], epochs: int, label: str, listener: Listener, reported: int
) -> Iterator[None]:
    """Report each epoch after the first `reported`, and nodes that are lost, while the body runs.

    Progress is read by `read` from the run's storage, because callbacks of Ray Train run in another process.
    """
    over, nodes = threading.Event(), _alive_nodes()

    def report() -> None:
        nonlocal reported
        result = read()
        for row in _history(result)[reported:] if result else []:
            reported += 1
            left = f", about {(epochs - reported) * row['seconds']:,.0f} s left" if reported < epochs else ""
            listener.progress(
                f"{label} epoch {row['epoch'] + 1:.0f} of {epochs}: loss {row['loss']:.4f}, "
                f"{row['tokens_per_s']:,.0f} tokens/s, {row['seconds']:.1f} s{left}"
            )
            if listener.on_epoch is not None:
                listener.on_epoch(label, row, epochs)

    def report_lost() -> None:
        alive = _alive_nodes()
        for node in nodes.keys() - alive.keys():
            what = "its workers are replaced, and the training goes on after the last stored epoch"
            listener.progress(f"{label}: the node {nodes.pop(node)} is lost, and {len(alive)} are left; {what}")

    def watch() -> None:
        while not over.wait(POLL_S):
            report_lost()
            with suppress(CheckpointManagerInitializationError):  # the record is being written
                report()

    watcher = threading.Thread(target=watch, name="training-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    report()


def _alive_nodes() -> dict[str, str]:
    """Return the addresses of the nodes of the cluster that are alive, by id."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def _last_line(error: Exception) -> str:
    return shorten((str(error).strip().splitlines() or [repr(error)])[-1], width=160)
