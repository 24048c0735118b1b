"""Matrices of tasks: the same here, on workers of this machine, and on workers elsewhere, where no row comes here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import tokenizer.arrays.vectors
from pipelines import sid_table, vector_store
from pipelines.compute import worker_rows
from pipelines.compute.executors import RayWork
from pipelines.compute.shared_rows import StoredRows
from pipelines.compute.worker_rows import PlacedRows, collect_rows, make_rows
from pipelines.fusion import fuse as fusing
from pipelines.fusion.fit import FusionStart, fit_fusion
from pipelines.fusion.frozen import Fusion
from pipelines.level_vectors import level_vectors
from pipelines.modalities import Modality
from pipelines.sid_table import Segment, occupancy, write_segment
from pipelines.spec import ComputeSpec, FusionSpec
from storage.commit import Provenance
from storage.lake import Lake
from tokenizer.arrays import scratch
from tokenizer.arrays.executor import Executor, Threads
from tokenizer.arrays.types import Floats
from tokenizer.arrays.vectors import NOTHING, Items
from tokenizer.assign import assign_sids
from tokenizer.codebook import Codebook
from tokenizer.fit import fit_codebook
from tokenizer.spec import CodebookSpec, LevelSpec

ITEMS, WIDTH, SPAN = 90, 6, 8
WHO = Provenance("run", "recipe")
KINDS = ["threads", "workers here", "workers elsewhere"]


@pytest.fixture(autouse=True)
def small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows are many spans, and matrices lie in files."""
    monkeypatch.setattr(tokenizer.arrays.vectors, "SPAN", SPAN)
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)


@contextmanager
def working(kind: str) -> Iterator[Executor]:
    """An executor; of workers elsewhere, rows that come by here are an error."""
    if kind == "threads":
        yield Threads(2)
        return
    with pytest.MonkeyPatch.context() as patch:
        if kind == "workers elsewhere":
            patch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # this process is connected, and does not look there
            for place in (worker_rows, scratch):
                patch.setattr(place, "scratch_rows", _refuse)
            patch.setattr(StoredRows, "of", _refuse)
            patch.setattr(sid_table, "vector_hashes", _refuse)  # here; workers have their own
        yield RayWork(ComputeSpec())


def _refuse(*_: object) -> None:
    raise AssertionError("rows came by this process")


def squaring() -> Callable[..., tuple[int, Floats]]:
    """A function that makes rows of squares of their numbers; made here, for workers cannot import this file."""

    def squared(_: Items, start: int, stop: int, factor: int) -> tuple[int, Floats]:
        return stop - start, factor * np.square(np.arange(start, stop, dtype=np.float32))[:, None].repeat(3, axis=1)

    return squared


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_tasks_make_are_in_their_places_and_results_in_order(kind: str) -> None:
    heights: list[int] = []
    tasks = ((start, min(start + 7, ITEMS), 2) for start in range(0, ITEMS, 7))
    with working(kind) as work:
        rows = make_rows(work, squaring(), NOTHING, tasks, (ITEMS, 3), heights.append)
    assert heights == [7] * 12 + [6]
    expected = 2 * np.square(np.arange(ITEMS, dtype=np.float32))[:, None].repeat(3, axis=1)
    np.testing.assert_array_equal(rows.read(0, ITEMS), expected)
    np.testing.assert_array_equal(rows.take(np.array([3, 7, 89])), expected[[3, 7, 89]])
    assert rows.shape == (ITEMS, 3)


def finding() -> Callable[..., Iterator[PlacedRows]]:
    """A function that yields rows and their vectors, batch by batch; made here, as above."""

    def found(batches: list[tuple[NDArray[np.int64], Floats]]) -> Iterator[PlacedRows]:
        yield from batches

    return found


ROWS = st.lists(st.integers(0, 20), max_size=8, unique=True).map(sorted)


@pytest.mark.usefixtures("ray_cluster")
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.lists(ROWS, max_size=3), min_size=1, max_size=4), items=st.sampled_from([21, 24, 4_000]))
def test_rows_that_parts_have_are_collected_as_by_a_loop_over_them(parts: list[list[list[int]]], items: int) -> None:
    number, plain, given_parts = 0.0, np.zeros((items, 2), np.float32), []
    seen = np.zeros(items, np.bool_)
    for part in parts:
        batches = []
        for rows in part:
            number += 1
            batches.append((np.array(rows, np.int64), np.full((len(rows), 2), number, np.float32)))
            for row in rows:
                plain[row] = plain[row] if seen[row] else number
                seen[row] = True
        given_parts.append((batches,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer.arrays.vectors, "SPAN", 8 if items < 100 else 1_000)
        made, present = collect_rows(RayWork(ComputeSpec()), finding(), given_parts, (items, 2))
    np.testing.assert_array_equal(present, seen)
    np.testing.assert_array_equal(made.read(0, items)[seen], plain[seen])


def stored(folder: Path) -> tuple[Lake, pl.DataFrame, dict[str, pl.DataFrame]]:
    """A lake with vectors of two modalities in many files, in no order of items; some items lack one, some both."""
    lake, draw = Lake(str(folder)), np.random.default_rng(0)
    items = pl.DataFrame({"item_id": [f"item-{number:03}" for number in range(ITEMS)]})
    wanted = {}
    for name, lacking in (("given", 5), ("other", 11)):
        rows = items.with_columns(content_hash=pl.lit("c")).filter(
            pl.int_range(pl.len()) % lacking != 0, pl.int_range(pl.len()) != 55
        )
        values = draw.standard_normal((rows.height, WIDTH)).astype(np.float32)
        shuffled = rows.with_columns(pl.Series("vector", values), modality=pl.lit(name), fingerprint=pl.lit("f"))
        for part in shuffled.sample(fraction=1, shuffle=True, seed=1).iter_slices(13):
            vector_store.store_vectors(lake, part, WHO)
        wanted[name] = rows
    return lake, items, wanted


def fitted() -> tuple[Fusion, Codebook]:
    draw = np.random.default_rng(1)
    seen = {
        name: Modality(draw.standard_normal((64, WIDTH)).astype(np.float32), np.ones(64, np.bool_))
        for name in ("given", "other")
    }
    fusion = fit_fusion(seen, FusionSpec(dim=WIDTH, epochs=0))
    spec = CodebookSpec(
        levels=(LevelSpec(codes=16), LevelSpec(codes=16, source="given")), iterations=1, growth=2.0, sample=64
    )
    vectors = {"fused": fusion.transform(seen)[0], "given": seen["given"].vectors}
    return fusion, fit_codebook(vectors, [f"item-{number}" for number in range(64)], spec)


def run(folder: Path, work: Executor) -> tuple[Any, ...]:
    """Gather, fuse, give SIDs and write them; return what was written, with the names of files, which are hashes."""
    lake, items, wanted = stored(folder)
    fusion, book = fitted()
    fingerprints = dict.fromkeys(wanted, "f")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_store, "FEW", 0)
        patch.setattr(vector_store, "PART_BYTES", 4_000)
        patch.setattr(fusing, "FEW_PARTS", 1)
        patch.setattr(fusing, "CHUNK", SPAN)
        patch.setattr(sid_table, "FILE_ROWS", 20)
        counts = []
        for some in (items[20:60], items):  # some fused vectors are there from an earlier run
            gathered = fusing.gather(lake, some, wanted, fingerprints, work)
            fused, counted = fusing.fuse(lake, fusion, gathered, WHO, work)
            counts.append(counted)
        level = level_vectors(lake, fused, gathered, book.sources, WHO)
        found = assign_sids(book, level.vectors, level.items, occupancy(lake, book, []), work)
        write_segment(lake, Segment("a", book, level.fused, found), level.counts, WHO, work)
        means = FusionStart.of(gathered.modalities, FusionSpec(dim=WIDTH), work).means
    names = [sorted(file.path for file in lake.data_files(table)) for table in ("vectors", "sids")]
    refused = lake.frame("quarantine").select("stage", "reason", "subject").sort("subject", "stage").rows()
    return names, refused, counts, level.counts, {name: mean.tolist() for name, mean in means.items()}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("kind", KINDS[1:])
def test_items_are_gathered_fused_and_written_by_workers_as_they_are_here(kind: str, tmp_path: Path) -> None:
    plain = run(tmp_path / "here", Threads(1))
    with working(kind) as work:
        assert run(tmp_path / "there", work) == plain
    names, refused, counts, *_ = plain
    assert [len(each) > 3 for each in names] == [True, True]
    assert {reason for _, reason, _ in refused} == {"no_vector", "missing_source"}
    assert (counts[1].rows_in, counts[1].unchanged) == (ITEMS, 39)
