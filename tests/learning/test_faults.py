"""Faults of a training on Ray Train: what dies or is full once, and what the run is then."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import test_loop as loops
import torch
from ray import cloudpickle
from ray.train.v2._internal.execution import storage

from learning import checkpoint
from learning.checkpoint import OPTIMIZER, RECORD, read_record, save_file
from learning.errors import LossDiverged, TrainingFailed
from learning.loop import Loop
from learning.ray_train.launch import Listener, launch
from learning.trainable import Cursor
from pipelines.compute.cluster import connect
from pipelines.spec import ComputeSpec
from training.data import histories
from training.data.histories import Batch
from training.spec import TrainSpec

SPEC = TrainSpec(workers=1, epochs=2, warmup_steps=5, checkpoint_steps=3, schedule="cosine")


Steps = dict[tuple[int, int], list[str]]
"""Events of each step, by epoch and the samples that it ends."""


def undisturbed() -> Steps:
    plan = Cursor(loops.PLAN.hash), Cursor(loops.PLAN.hash, 1)
    return {
        (cursor.epoch, cursor.sample): sorted(batch.event_ids.to_pylist())
        for each in plan
        for batch, cursor in histories.batches(loops.PLAN, loops.read, 0, 1, each)
    }


def taken(folder: Path) -> Steps:
    """Return the events of each step of all workers; a repeated step with the same events counts once."""
    steps: dict[tuple[int, int], set[str]] = {}
    for path in folder.glob("taken-*"):
        for epoch, sample, events in map(json.loads, path.read_text().splitlines()):
            steps.setdefault((epoch, sample), set()).update(events)
    return {at: sorted(events) for at, events in steps.items()}


def steps_of(folder: Path) -> int:
    """Return the number of steps of all workers, repeated ones included."""
    return sum(path.read_text().count("\n") for path in folder.glob("taken-*"))


class Faulty(loops.Told):
    """Has one fault, the first time it gets there."""

    def __init__(self, fault: str, marker: Path) -> None:
        self.fault, self.marker, self.bad = fault, marker, None
        self.at: list[tuple[Batch, Cursor]] = []
        super().__init__()
        if fault == "start":
            self._once()
        if fault == "checkpoint":
            checkpoint.save_file = self._dies_writing
        if fault == "upload":
            storage._pyarrow_fs_copy_files = self._record_alone
        if fault == "untold":
            storage._pyarrow_fs_copy_files = self._last_untold
        if fault == "disk full":
            self._once(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
        if fault == "disk stays full" and not self.marker.exists():
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    def _once(self, harm: Any = lambda: os.kill(os.getpid(), signal.SIGKILL)) -> None:
        if not self.marker.exists():
            self.marker.touch()
            harm()

    def _dies_writing(self, weights: dict[str, torch.Tensor], path: Path) -> None:
        """Dies when the optimizer of a checkpoint is written, and its weights are not."""
        self._once()
        save_file(weights, path)

    def _record_alone(self, source: str, destination: str, **_: object) -> None:
        """Dies in an upload, when of a checkpoint no more than its record has arrived."""
        if "step-000000006" in destination and not self.marker.exists():
            shutil.copy(Path(source) / RECORD, destination)
            self._once()
        shutil.copytree(source, destination, dirs_exist_ok=True)

    def _last_untold(self, source: str, destination: str, **_: object) -> None:
        """Dies when the last checkpoint is stored and nobody knows of it."""
        shutil.copytree(source, destination, dirs_exist_ok=True)
        if destination.endswith(f"epoch-{SPEC.epochs:05d}"):
            self._once()

    def batches(self, rank: int, world: int, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
        for number, each in enumerate(super().batches(rank, world, cursor)):
            if self.fault == "middle" and (cursor.epoch, number) == (1, 2):
                self._once()
            # Of one worker alone: the others have to stop with it.
            if self.fault == "loss" and rank == world - 1 and cursor.epoch == 1 and number == 1:
                self.bad = each[0].event_ids
            self.at.append(each)
            yield each

    def loss(self, module: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        (cursor,) = (cursor for each, cursor in self.at if each.event_ids is batch.event_ids)
        if self.fault == "driver" and cursor.epoch == 1 and cursor.sample > 2 * self.plan.batch_size:
            self._once(lambda: os.kill(int(self.marker.with_name("driver").read_text()), signal.SIGKILL))
        with self.marker.with_name(f"taken-{os.getpid()}").open("a") as steps:
            steps.write(json.dumps([cursor.epoch, cursor.sample, batch.event_ids.to_pylist()]) + "\n")
        share, sums = super().loss(module, batch)
        if self.bad is not None and self.bad.equals(batch.event_ids):
            with self.marker.with_name("attempts").open("a") as attempts:
                attempts.write("attempt\n")
            share, sums = share * torch.nan, {**sums, "loss": sums["loss"] * torch.nan}
        return share, sums


def drive(folder: Path, workers: int) -> None:
    """A training in a process of its own, which one of its workers kills."""
    connect(ComputeSpec(cpus=3))
    (folder / "driver").write_text(str(os.getpid()))
    spec = SPEC.model_copy(update={"workers": workers})
    launch(partial(Faulty, "driver", folder / "marker"), spec, "run", folder / "runs")


def _by_value() -> None:
    for module in (sys.modules[__name__], loops):
        cloudpickle.register_pickle_by_value(module)  # workers cannot import a test


@pytest.fixture
def by_value() -> None:
    _by_value()


@pytest.mark.usefixtures("ray_cluster", "by_value")
@pytest.mark.parametrize(("workers", "sharding"), [(2, False), pytest.param(2, True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", ["middle", pytest.param("checkpoint", marks=pytest.mark.slow)])
def test_workers_of_which_one_is_killed_take_each_step_of_a_run_without(
    fault: str, workers: int, sharding: bool, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(update={"workers": workers, "sharding": sharding})
    done = launch(partial(Faulty, fault, tmp_path / "marker"), spec, "run", tmp_path / "runs")
    assert (tmp_path / "marker").exists()
    assert taken(tmp_path) == undisturbed()
    assert [row["targets"] for row in done.history] == [2 * sum(map(len, undisturbed().values())) / 2] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "by_value")
@pytest.mark.parametrize("fault", ["start", "middle", "checkpoint", "upload", "untold", "disk full"])
def test_a_run_that_a_fault_hits_ends_as_one_that_none_does(fault: str, tmp_path: Path) -> None:
    whole = Loop(loops.Told(), SPEC)
    whole.run(lambda _, __: None)
    told: list[str] = []
    marker = tmp_path / "marker"
    done = launch(partial(Faulty, fault, marker), SPEC, "run", tmp_path / "runs", listener=Listener(told.append))
    assert marker.exists()
    assert [row["loss"] for row in done.history] == [row["loss"] for row in whole.progress.history]
    assert [row["targets"] for row in done.history] == [row["targets"] for row in whole.progress.history]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "by_value")
def test_a_run_on_a_disk_that_stays_full_says_what_to_do_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    run = partial(launch, partial(Faulty, "disk stays full", tmp_path / "room"), SPEC, "run", tmp_path / "runs")
    with pytest.raises(TrainingFailed, match=rf"{OPTIMIZER}: .* bytes are free.*: the training resumes"):
        run()
    assert not list((tmp_path / "runs" / "run").glob("step-*"))
    (tmp_path / "room").touch()
    whole = Loop(loops.Told(), SPEC)
    whole.run(lambda _, __: None)
    assert [row["loss"] for row in run().history] == [row["loss"] for row in whole.progress.history]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "by_value")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_whose_driver_was_killed_is_finished_by_the_next_with_one_worker(workers: int, tmp_path: Path) -> None:
    whole = Loop(loops.Told(), SPEC)
    whole.run(lambda _, __: None)
    here = Path(__file__).parent
    code = f"import sys; sys.path[:0] = {[str(here), str(here.parent)]}; import conftest, test_faults as faults; "
    code += f"from pathlib import Path; faults._by_value(); faults.drive(Path({str(tmp_path)!r}), {workers})"
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    workers_of = [Path("/proc") / path.name.removeprefix("taken-") for path in tmp_path.glob("taken-*")]
    deadline = time.monotonic() + 60
    while any(path.exists() for path in workers_of) and time.monotonic() < deadline:
        time.sleep(0.1)  # they live on for a while
    before = steps_of(tmp_path)
    shutil.rmtree(max((tmp_path / "runs" / "run").glob("step-*")))  # and its newest checkpoint is gone
    done = launch(partial(Faulty, "none", tmp_path / "marker"), SPEC, "run", tmp_path / "runs")
    # It went on from a checkpoint; begun anew, it would end the same.
    assert steps_of(tmp_path) - before < len(whole.trainable.steps)
    assert taken(tmp_path) == undisturbed()
    if workers == 1:  # dropout of two is not that of one
        assert [row["loss"] for row in done.history] == [row["loss"] for row in whole.progress.history]
    assert [row["targets"] for row in done.history] == [row["targets"] for row in whole.progress.history]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "by_value")
@pytest.mark.parametrize(("workers", "sharding"), [(1, False), (2, False), (2, True)])
def test_a_loss_that_is_no_number_stops_the_run_at_once_and_harms_no_checkpoint(
    tmp_path: Path, workers: int, sharding: bool
) -> None:
    spec = SPEC.model_copy(update={"workers": workers, "sharding": sharding})
    run = partial(launch, partial(Faulty, "loss", tmp_path / "marker"), spec, "run", tmp_path / "runs")
    for times in (1, 2):  # and again from where it stood, where it is run again
        with pytest.raises(LossDiverged, match=r"the loss is nan in a step that predicts \d+ events \(e\d-") as caught:
            run()
        assert (tmp_path / "attempts").read_text().count("attempt") == times
    whole = Loop(loops.Told(), SPEC)
    whole.run(lambda _, __: None)
    assert sorted(caught.value.event_ids) == sorted(whole.trainable.steps[len(whole.trainable.steps) // 2 + 1][1])
    kept = sorted((tmp_path / "runs" / "run").glob("step-*"))
    found = [(read_record(each).step, read_record(each).cursor.epoch) for each in kept]
    assert found == [(6, 0), (6, 1)]
