"""Partitions of a source: they have its rows, and what workers make of them is what one process makes."""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deletion_vectors import mark_deleted
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import cloudpickle
from source_rows import NOW, WHO
from test_whole_ingest import partitions_for

from pipelines.compute.executors import Compute, InProcess, Job, OnRay, WorkerDied
from pipelines.ingest import partitions
from pipelines.ingest.events import ingest as events_ingest
from pipelines.ingest.items import ingest as items_ingest
from pipelines.ingest.partitions import made_in_order, partitions_for_workers
from pipelines.registry import source_kind_of
from pipelines.sources.files import find_sources
from pipelines.sources.protocol import Part, Partition, Partitioned, Source, Spec
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import InteractionsSpec, ItemsWithoutImages
from pipelines.spec import ComputeSpec
from storage.lake import Lake

ITEMS, EVENTS = ItemsWithoutImages(deleted="deleted"), InteractionsSpec()


def catalogue(rows: int, start: int = 0) -> pa.Table:
    numbers = range(start, start + rows)
    return pa.table({"item_id": [f"i{each}" for each in numbers], "title": [f"mug {each}" for each in numbers]})


def told(parts: Any) -> list[tuple[int, dict[str, Any], str | None]]:
    rows = (row for part in parts for row in (part if isinstance(part, list) else part.rows()))
    return [(row.number, row.values, row.reason) for row in rows]


def check_partitions(source: Source, spec: Spec = ITEMS, rows: int = 3) -> list[Partition]:
    """Check that the parts of the partitions, which another process may read, are those of the source."""
    assert isinstance(source, Partitioned)
    found = source.partitions(spec)
    there = cloudpickle.loads(cloudpickle.dumps(source))
    parts = [part for each in found for part in there.partition_parts(each, spec, rows)]
    whole = list(source.parts(spec, rows))
    assert [_size(each) for each in parts] == [_size(each) for each in whole]
    assert told(parts) == told(whole)
    assert [each.first for each in found] == [told(source.partition_parts(each, spec, rows))[0][0] for each in found], (
        "the number of the first row"
    )
    return found


def _size(part: Part) -> int:
    return len(part)


def test_row_groups_of_parquet_are_partitions_also_damaged_ones(tmp_path: Path) -> None:
    path = tmp_path / "kind=new" / "items.parquet"
    path.parent.mkdir()
    pq.write_table(catalogue(40), path, row_group_size=10, compression="none", use_dictionary=False)
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[group.data_page_offset : group.data_page_offset + 12] = b"\xff" * 12
    path.write_bytes(data)
    (source,) = find_sources(str(path), ["kind"])
    found = check_partitions(source)
    assert [each.rows for each in found] == [10, 10, 10, 10]
    assert any(reason for *_, reason in told(source.partition_parts(found[1], ITEMS, 3)))


def test_a_file_that_changes_while_a_partition_is_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    pq.write_table(catalogue(4), path, row_group_size=2)
    (source,) = find_sources(str(path))
    first, _ = source.partitions(ITEMS)
    pq.write_table(catalogue(6), path, row_group_size=2)
    with pytest.raises(SourceError, match="changed while it was read"):
        list(source.partition_parts(first, ITEMS, 2))


def test_texts_and_what_cannot_be_read_have_no_partitions(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("item_id,title\na,mug\n")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 broken")
    assert all(each.partitions(ITEMS) == [] for each in find_sources(str(tmp_path)))


def test_files_of_a_delta_table_are_partitions_without_deleted_rows(tmp_path: Path) -> None:
    path = str(tmp_path / "table")
    for start in (0, 10, 20):
        write_deltalake(path, catalogue(10, start), mode="append")
    mark_deleted(path, "item_id", "i3")
    (source,) = source_kind_of(path).find(path, ITEMS, []).sources
    assert sorted(each.rows for each in check_partitions(source)) == [9, 10, 10]


ROWS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["mug", "cup", "", None])), min_size=1, max_size=9
)
CLICKS = st.lists(
    st.tuples(st.sampled_from("uv"), st.sampled_from("abz"), st.integers(0, 3), st.sampled_from(["", "p", "q"])),
    min_size=1,
    max_size=9,
)


@given(before=ROWS, rows=ROWS, clicks_before=CLICKS, clicks=CLICKS, chunk=st.integers(1, 4), group=st.integers(1, 4))
@settings(max_examples=30, deadline=timedelta(seconds=60))
def test_workers_write_the_files_that_one_process_writes(
    before: Any, rows: Any, clicks_before: Any, clicks: Any, chunk: int, group: int
) -> None:
    """Byte by byte, with items and events that come again in another part, or were there before."""
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        for module in (events_ingest, items_ingest):
            patch.setattr(module, "CHUNK_ROWS", chunk)
            patch.setattr(module, "partitions_for_workers", partitions_for)
        lakes = []
        for compute in (None, InProcess(ComputeSpec())):
            lake = Lake(str(folder / str(len(lakes))))
            counts = []
            for number, some in enumerate((before, rows)):
                source = parquet(folder / f"items-{number}.parquet", ("item_id", "title"), some, group)
                counts += items_ingest.ingest_items(lake, source, ITEMS, NOW, WHO, compute).stages
            names = "user_id", "item_id", "event_time", "event_id"
            for number, some in enumerate((clicks_before, clicks)):
                source = parquet(folder / f"log-{number}.parquet", names, some, group)
                counts += events_ingest.ingest_interactions(lake, source, EVENTS, NOW, WHO, compute=compute).stages
            refused = lake.frame("quarantine").drop("at").sort("quarantine_id", "status")
            tables = [sorted(lake.file_names(each, lake.version(each))) for each in ("items", "interactions")]
            lakes.append((counts, refused.to_dicts(), tables))
        assert lakes[0] == lakes[1]


def parquet(path: Path, names: tuple[str, ...], rows: list[tuple[Any, ...]], group: int) -> Source:
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    if "event_time" in columns:
        columns["event_time"] = [1_700_000_000 + each for each in columns["event_time"]]
    pq.write_table(pa.table(columns), path, row_group_size=group)
    (source,) = find_sources(str(path))
    return source


def mortal(folder: Path, deaths: int) -> Job[Partition, int]:
    """Return a job of which one unit ends the process, until it was tried so often."""

    class Mortal:
        stage = type("Stage", (), {"name": "tasks"})  # sent with its code, as workers do not import this module

        def start(self) -> Callable[[Partition], int]:
            return self._made

        def _made(self, unit: Partition) -> int:
            if unit.first == 2 and len(list(folder.iterdir())) < deaths:
                (folder / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return unit.first

    return Mortal()


def test_partitions_of_a_worker_that_dies_are_given_to_others_and_come_in_order(
    tmp_path: Path, ray_cluster: None
) -> None:
    units, compute = [Partition(first, 1, first) for first in range(5)], OnRay(ComputeSpec())
    assert list(made_in_order(compute, mortal(tmp_path, 1), units)) == [0, 1, 2, 3, 4]
    (tmp_path / "again").mkdir()
    with pytest.raises(WorkerDied, match="a worker of stage Stage died"):
        list(made_in_order(compute, mortal(tmp_path / "again", 9), units))


def test_workers_of_a_cluster_read_a_large_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    monkeypatch.setattr(partitions, "MIN_ROWS", 25)
    events = [each % 360 for each in range(400)]  # of which the last come again
    log = pa.table(
        {
            "user_id": [f"u{each % 7}" for each in events],
            "item_id": [f"i{each % 120}" for each in events],  # of which 100 are known
            "event_time": [1_700_000_000 + each for each in events],
        }
    )
    pq.write_table(catalogue(100), tmp_path / "items.parquet", row_group_size=30)
    pq.write_table(log, tmp_path / "log.parquet", row_group_size=90)
    compute, found = OnRay(ComputeSpec()), []
    for each in (None, compute):
        lake = Lake(str(tmp_path / str(len(found))))
        (items,), (events,) = (find_sources(str(tmp_path / name)) for name in ("items.parquet", "log.parquet"))
        assert bool(partitions_for_workers(items, ITEMS, each)) == (each is not None)
        done = items_ingest.ingest_items(lake, items, ITEMS, NOW, WHO, each)
        logged = events_ingest.ingest_interactions(lake, events, EVENTS, NOW, WHO, compute=each)
        tables = [sorted(lake.file_names(table, lake.version(table))) for table in ("items", "interactions")]
        refused = lake.frame("quarantine", columns=["quarantine_id"])["quarantine_id"].sort().to_list()
        found.append((done.stages, done.columns, logged.stages, logged.columns, refused, tables))
    assert found[0] == found[1]
    assert found[1][2][0].by_reason == {"unknown_item": 60, "duplicate_event": 40}


@pytest.mark.parametrize("address", ["", "10.0.0.7:6379"])
def test_only_large_sources_are_read_by_workers_and_only_by_those_that_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    pq.write_table(catalogue(100), tmp_path / "items.parquet", row_group_size=50)
    (source,) = find_sources(str(tmp_path / "items.parquet"))
    monkeypatch.setenv("RAY_ADDRESS", address)

    def workers(compute: Compute, least: int, cpus: int) -> int:
        monkeypatch.setattr(partitions, "MIN_ROWS", least)
        monkeypatch.setattr(partitions, "machine_cpus", lambda: cpus)
        return len(partitions_for_workers(source, ITEMS, compute))

    spread = 0 if address else 2
    assert workers(OnRay(ComputeSpec()), 100, 3) == spread, "another machine does not see files of this one"
    assert workers(OnRay(ComputeSpec()), 25, 2) == spread
    assert workers(OnRay(ComputeSpec()), 101, 3) == workers(OnRay(ComputeSpec()), 26, 2) == 0
    assert workers(OnRay(ComputeSpec()), 1, 1) == workers(InProcess(ComputeSpec()), 1, 3) == 0
