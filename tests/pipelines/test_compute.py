"""A stage is held to the columns it declares; what lies in Ray's store reads as what lies in memory."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from ray.exceptions import WorkerCrashedError

import tokenizer.arrays.vectors
from learning.progress import emit, progress_listener
from pipelines.compute.executors import InProcess, OnRay, RayWork
from pipelines.compute.placement import StageError
from pipelines.compute.shared_rows import StoredRows, shared
from pipelines.embed.protocol import apply
from pipelines.spec import ComputeSpec
from tokenizer.arrays.scratch import FileRows
from tokenizer.arrays.types import Floats
from tokenizer.arrays.vectors import NOTHING, ArrayRows, Items, Rows, TakenRows


class Double:
    reads = ("text",)
    adds = ("twice", "reason", "detail")

    def __init__(self, forget: str = "", rows: int | None = None) -> None:
        self._forget, self._rows = forget, rows

    def __call__(self, batch: pa.Table) -> pa.Table:
        twice = [2 * text for text in batch.column("text").to_pylist()]
        answer = batch.append_column("twice", pa.array(twice, pa.string()))
        for name in ("reason", "detail"):
            answer = answer.append_column(name, pa.nulls(batch.num_rows, pa.string()))
        return answer.drop_columns([self._forget] if self._forget else []).slice(0, self._rows)


BATCH = pa.table({"item_id": ["a", "b"], "text": ["x", "y"]})


def test_a_stage_may_drop_what_it_reads_and_nothing_else():
    assert apply(Double(), BATCH).column("twice").to_pylist() == ["xx", "yy"]
    assert "text" not in apply(Double(forget="text"), BATCH).column_names
    for stage in (Double(forget="item_id"), Double(forget="reason"), Double(rows=1)):
        with pytest.raises(TypeError, match="stage Double returned"):
            apply(stage, BATCH)


def test_a_batch_without_the_column_a_stage_reads_is_refused_before_the_stage_sees_it():
    with pytest.raises(TypeError, match=r"reads columns \['text'\], but its input only has"):
        apply(Double(), BATCH.drop_columns(["text"]))


@pytest.mark.usefixtures("ray_cluster")
def test_vectors_lie_in_rays_store_span_by_span_and_read_as_those_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer.arrays.vectors, "SPAN", 10)
    rows = ArrayRows(np.random.default_rng(0).normal(size=(35, 3)).astype(np.float32))
    stored = StoredRows.of(rows)
    assert (stored.shape, len(stored.vectors)) == (rows.shape, 4)
    for start, stop in ((0, 10), (12, 18), (5, 25), (30, 35), (0, 35), (7, 7), (35, 35)):
        np.testing.assert_array_equal(stored.read(start, stop), rows.read(start, stop))
    for some in ([0, 9, 10, 34], [], [20]):
        np.testing.assert_array_equal(stored.take(np.array(some, np.int64)), rows.take(np.array(some, np.int64)))


def reading() -> Callable[[Rows], Floats]:
    """A function that reads all rows; made here, for workers cannot import this file."""
    return lambda rows: rows.read(0, rows.shape[0])


@pytest.mark.usefixtures("ray_cluster")
def test_workers_here_read_a_scratch_file_and_those_elsewhere_get_its_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(35, 3)).astype(np.float32)
    made = FileRows.zeros(*values.shape)
    made.put(0, values)
    some = TakenRows(made, np.array([30, 2, 2, 7]))
    for rows, expected in ((made, values), (some, values[some.at])):
        np.testing.assert_array_equal(OnRay(ComputeSpec()).run(reading(), shared(rows)), expected)
    assert shared(made) is made
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert isinstance(shared(made), StoredRows)
    np.testing.assert_array_equal(shared(some).read(0, 4), values[some.at])


def halving() -> Callable[[int], int]:
    """A function that tells each halving down to one; made here, for workers cannot import this file."""

    def halved(rows: int) -> int:
        while rows > 1:
            rows //= 2
            emit(f"{rows} left")
        if not rows:
            raise ValueError("nothing to halve")
        return rows

    return halved


@pytest.mark.parametrize("compute", [InProcess(ComputeSpec()), OnRay(ComputeSpec())])
def test_what_a_function_tells_is_heard_here_wherever_it_runs(compute: InProcess | OnRay, ray_cluster: None) -> None:
    heard: list[str] = []
    with progress_listener(heard.append):
        assert compute.run(halving(), 8) == 1
        with pytest.raises(ValueError, match="nothing to halve"):
            compute.run(halving(), 0)
    assert heard == ["4 left", "2 left", "1 left"]


def mortal() -> Callable[[Path, int], str]:
    """A function whose worker is killed at first, and that then has less to tell, as from a checkpoint."""

    def run(tries: Path, deaths: int) -> str:
        tries.write_text(tries.read_text() + "x")
        if len(tries.read_text()) > deaths:
            emit("resuming")
            return "made"
        for epoch in range(4):
            emit(f"epoch {epoch}")
        time.sleep(1)  # until they are heard
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    return run


def test_a_function_whose_worker_dies_is_run_again_and_its_result_is_not_lost(
    tmp_path: Path, ray_cluster: None
) -> None:
    heard: list[str] = []
    tries = tmp_path / "tries"
    tries.write_text("")
    with progress_listener(heard.append):
        assert OnRay(ComputeSpec()).run(mortal(), tries, 1) == "made"
    assert heard[-1] == "resuming"
    tries.write_text("")
    with pytest.raises(WorkerCrashedError):
        OnRay(ComputeSpec()).run(mortal(), tries, 9)
    assert len(tries.read_text()) == 3


def failing() -> Callable[..., int]:
    """A function that fails on its first task; made here, for workers cannot import this file."""

    def failed(_: Items, number: int) -> int:
        if not number:
            raise ValueError("the first fails")
        time.sleep(0.1)
        return number

    return failed


@pytest.mark.usefixtures("ray_cluster")
def test_what_waits_is_cancelled_once_a_task_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and not when the error is forgotten: it holds what was going on."""
    cancelled = []
    monkeypatch.setattr("ray.cancel", lambda reference, force: cancelled.append(reference))
    for results in (RayWork(ComputeSpec()).map, RayWork(ComputeSpec()).blocks):
        cancelled.clear()
        with pytest.raises(ValueError, match="the first fails"):
            list(results(failing(), NOTHING, ((number,) for number in range(20))))
        assert cancelled


def test_tasks_reserve_what_the_recipe_says_and_what_the_cluster_lacks_is_refused(ray_cluster: None) -> None:
    def seen(_: Items, number: int) -> tuple[int, dict[str, float]]:
        import ray

        return number, dict(ray.get_runtime_context().get_assigned_resources())

    spec = ComputeSpec.model_validate({"stages": {"tasks": {"num_cpus": 0.5}}})
    found = list(OnRay(spec).work.map(seen, NOTHING, [(number,) for number in range(3)]))
    assert found == [(number, {"CPU": 0.5}) for number in range(3)]
    lacks = ComputeSpec.model_validate({"stages": {"tasks": {"resources": {"cpu_node": 1}}}})
    for work in (lambda: list(OnRay(lacks).work.map(seen, NOTHING, [(0,), (1,)])), lambda: OnRay(lacks).run(int)):
        with pytest.raises(
            StageError, match=r"\[compute.stages.tasks\] reserves 1 cpu_node, and the whole cluster has"
        ):
            work()
    for wrong in ({"workers": 2}, {"num_gpus": 1}):
        with pytest.raises(ValidationError, match="tasks use no GPU"):
            ComputeSpec.model_validate({"stages": {"tasks": wrong}})
