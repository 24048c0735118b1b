"""The same bytes however many workers there are, wherever the vectors lie, and after a worker was killed."""

import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizer.arrays.scratch
import tokenizer.arrays.vectors
from tokenizer.arrays.exact_sums import grid, sums_by_code, total
from tokenizer.arrays.executor import Executor, Threads
from tokenizer.arrays.scratch import FileRows, copied, scratch_rows, taken_rows
from tokenizer.arrays.vectors import Items, ParquetRows, TakenRows
from tokenizer.assign import Occupancy, assign_sids
from tokenizer.fit import fit_codebook
from tokenizer.spec import CodebookSpec, LevelSpec

DRAW = np.random.default_rng(0)
VECTORS = (DRAW.normal(size=(30, 12))[DRAW.zipf(1.5, 3000) % 30] + 0.3 * DRAW.normal(size=(3000, 12))).astype(
    np.float32
)
IDS = [f"item-{row}" for row in range(len(VECTORS))]
SPEC = CodebookSpec(levels=(LevelSpec(codes=24),) * 3, iterations=3, slack=1.2, growth=1.1)


class Backwards:
    """Does the tasks of a call in reverse order, and answers in theirs."""

    def map(self, function: Callable[..., Any], items: Items, tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        listed = list(tasks)
        done = {number: function(items, *listed[number]) for number in reversed(range(len(listed)))}
        yield from (done[number] for number in range(len(listed)))


@pytest.fixture(autouse=True)
def short_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several spans, so that there is something to share out."""
    monkeypatch.setattr(tokenizer.arrays.vectors, "SPAN", 1024)


def outcome(work: Executor, vectors: Any = VECTORS) -> tuple[bytes, bytes]:
    codebook = fit_codebook({"fused": vectors}, IDS, SPEC, work)
    return codebook.to_bytes(), assign_sids(codebook, {"fused": vectors}, IDS, Occupancy.empty(3), work).codes.tobytes()


@cache
def alone() -> tuple[bytes, bytes]:
    """The outcome on one thread, from vectors in memory."""
    return outcome(Threads(1))


def test_any_number_of_workers_and_any_order_of_the_work_gives_the_same_bytes() -> None:
    for work in (Threads(2), Threads(4), Backwards()):
        assert outcome(work) == alone()


def test_vectors_in_parquet_give_the_bytes_of_vectors_in_memory(tmp_path: Path) -> None:
    paths = (str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"))
    for path, part in zip(paths, (VECTORS[:1800], VECTORS[1800:]), strict=True):
        column = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), 12)
        pq.write_table(pa.table({"vector": column}), path, row_group_size=700)
    stored = ParquetRows(paths)
    assert stored.shape == VECTORS.shape
    np.testing.assert_array_equal(stored.read(650, 2600), VECTORS[650:2600])
    rows = np.array([0, 1799, 1800, 2999])
    np.testing.assert_array_equal(stored.take(rows), VECTORS[rows])
    assert outcome(Threads(2), stored) == alone()


@pytest.mark.parametrize("in_memory", [0, 1 << 28])
def test_rows_in_a_scratch_file_are_read_and_written_like_those_of_an_array(
    in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer.arrays.scratch, "IN_MEMORY", in_memory)
    rows = len(VECTORS)
    made, twin = scratch_rows(*VECTORS.shape), np.zeros_like(VECTORS)
    assert isinstance(made, FileRows) == (in_memory == 0)
    assert not made.read(0, rows).any()
    some = np.flatnonzero(DRAW.random(rows) < 0.4)
    for place in (some, np.arange(1000, 1100), some[:0], some[-1:]):
        made.scatter(place, VECTORS[place] + len(place))
        twin[place] = VECTORS[place] + len(place)
        np.testing.assert_array_equal(made.read(0, rows), twin)
    made.put(700, VECTORS[700:2100])
    twin[700:2100] = VECTORS[700:2100]
    np.testing.assert_array_equal(made.read(650, 2600), twin[650:2600])
    np.testing.assert_array_equal(made.take(some), twin[some])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made)).read(0, rows), twin)
    shuffled = DRAW.permutation(some)
    np.testing.assert_array_equal(TakenRows(made, shuffled).read(5, 50), twin[shuffled[5:50]])
    np.testing.assert_array_equal(TakenRows(made, some).take(np.array([3, 3, 0])), twin[some[[3, 3, 0]]])
    np.testing.assert_array_equal(taken_rows(made, some).read(0, len(some)), twin[some])
    assert taken_rows(made, np.arange(rows)) is made
    assert taken_rows(made, some[:0]).shape == (0, VECTORS.shape[1])
    assert scratch_rows(0, 3).shape == (0, 3)


def test_without_room_for_a_scratch_file_parquet_is_read_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "all.parquet")
    column = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), 12)
    pq.write_table(pa.table({"vector": column}), path, row_group_size=700)
    ties = np.arange(len(VECTORS), dtype=np.uint64)
    items = Items({"fused": ParquetRows((path,))}, ties)
    scratch = copied(items, Threads(2)).rows["fused"]
    assert isinstance(scratch, FileRows)
    np.testing.assert_array_equal(scratch.read(650, 2600), VECTORS[650:2600])
    some = np.array([0, 1023, 1024, 1024, 2999])
    np.testing.assert_array_equal(scratch.take(some), VECTORS[some])
    monkeypatch.setattr(tokenizer.arrays.scratch, "SPARE", 1e15)
    assert copied(items, Threads(2)).rows["fused"] is items.rows["fused"]
    assert outcome(Threads(2), ParquetRows((path,))) == alone()


def test_lists_of_two_widths_in_one_column_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "uneven.parquet"
    pq.write_table(pa.table({"vector": pa.array([[1.0], [1.0, 2.0]], pa.list_(pa.float32()))}), path)
    with pytest.raises(ValueError, match="different widths"):
        ParquetRows((str(path),)).read(0, 2)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(-30, 30), st.integers(0, 10**6))
def test_sums_are_the_same_in_any_order_and_right(rows: int, codes: int, power: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    values = (draw.normal(size=(rows, 3)) * 2.0**power).astype(np.float32)
    code = draw.integers(-1, codes, rows).astype(np.int32)
    scale = grid(float(np.abs(values).max()), rows)
    sums, counts = sums_by_code(values, scale, code, codes)
    shuffled = draw.permutation(rows)
    again, _ = sums_by_code(values[shuffled], scale, code[shuffled], codes)
    np.testing.assert_array_equal(sums, again)
    for number in range(codes):
        own = values[code == number].astype(np.float64)
        assert counts[number] == len(own)
        np.testing.assert_allclose(sums[number] / scale, own.sum(axis=0), atol=rows / scale)


def test_sums_are_on_a_grid_as_fine_as_a_span_and_then_all_spans_add_up_exactly_on() -> None:
    """37 bits of the largest value, and fewer where so many terms would exceed 62."""
    assert [grid(largest, 10) for largest in (0.75, 1.0, 3.0)] == [2.0**37, 2.0**36, 2.0**35]
    assert [grid(0.75, terms) for terms in (2**24, 2**25, 2**30)] == [2.0**37, 2.0**36, 2.0**31]
    assert grid(0.0, 10) == 1.0
    assert total(np.array([0.25, 0.5, 0.1]), 4.0) == 3


class KilledOnce:
    """A work whose first task kills the process that it runs in, once."""

    def __init__(self, work: Executor, marker: Path) -> None:
        self.work, self.marker = work, marker

    def map(self, function: Callable[..., Any], items: Items, tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        marker = self.marker

        def die_once(items: Items, *task: Any) -> Any:
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return function(items, *task)

        yield from self.work.map(die_once, items, tasks)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_one_two_and_four_ray_workers_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that take three, one and a half, and three quarters of the cluster's three CPUs."""
    from pipelines.compute import executors
    from pipelines.compute.executors import RayWork
    from pipelines.spec import ComputeSpec

    monkeypatch.setattr(executors, "SPAN", 0)
    for task_cpus in (3, 1.5, 0.75):
        spec = ComputeSpec.model_validate({"cpus": 3, "stages": {"tasks": {"num_cpus": task_cpus}}})
        assert outcome(RayWork(spec)) == alone()


@pytest.mark.usefixtures("ray_cluster")
def test_ray_workers_give_the_same_bytes_also_when_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.compute import executors
    from pipelines.compute.executors import RayWork
    from pipelines.spec import ComputeSpec

    monkeypatch.setattr(executors, "SPAN", 0)  # else the few items of a test stay in this process
    marker = tmp_path / "killed"
    assert outcome(KilledOnce(RayWork(ComputeSpec(cpus=3)), marker)) == alone()
    assert marker.exists()


def test_rows_beyond_the_end_of_a_scratch_file_are_an_error() -> None:
    with pytest.raises(IndexError, match="rows 2 to 4 were asked for, of 3"):
        FileRows.zeros(3, 4).read(2, 5)
