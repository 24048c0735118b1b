"""Partitions of a source: they have its rows, and what workers make of them is what one process makes."""

import os
import signal
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from deletion_vectors import mark_deleted
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import cloudpickle
from source_rows import NOW, WHO
from test_iceberg_source import ADDRESS, declare, made
from test_iceberg_source import rows as rows_of_iceberg
from test_ingest_at_once import between
from test_whole_ingest import partitions_for

from pipelines.compute.executors import Compute, InProcess, Job, OnRay, WorkerDied
from pipelines.ingest import partitions
from pipelines.ingest.accounting import IngestedSource
from pipelines.ingest.events import ingest as events_ingest
from pipelines.ingest.events.ingest import LogResources
from pipelines.ingest.hash_set import hash_probe, require_same_hashes
from pipelines.ingest.items import ingest as items_ingest
from pipelines.ingest.partitions import made_in_order, partitions_for_workers
from pipelines.registry import source_kind_of
from pipelines.sources import files
from pipelines.sources.files import find_sources
from pipelines.sources.protocol import Part, Partitioned, Source, SourcePartition, Spec
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


def check_partitions(source: Source, spec: Spec = ITEMS, rows: int = 3) -> list[SourcePartition]:
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


def test_row_groups_of_parquet_are_partitions_also_damaged_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kind=new" / "items.parquet"
    path.parent.mkdir()
    pq.write_table(catalogue(40), path, row_group_size=10, compression="none", use_dictionary=False)
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[group.data_page_offset : group.data_page_offset + 12] = b"\xff" * 12
    path.write_bytes(data)
    (source,) = find_sources(str(path), ["kind"])
    monkeypatch.setattr(files, "PARTITION_ROWS", 20)
    assert [each.rows for each in check_partitions(source)] == [20, 20]
    monkeypatch.setattr(files, "PARTITION_ROWS", 1)
    found = check_partitions(source)
    assert [each.rows for each in found] == [10, 10, 10, 10]
    assert any(reason for *_, reason in told(source.partition_parts(found[1], ITEMS, 3)))


def test_a_file_that_changes_while_workers_read_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lake = tmp_path / "items.parquet", Lake(str(tmp_path / "lake"))
    pq.write_table(catalogue(4), path, row_group_size=2)
    (source,) = find_sources(str(path))
    spread(monkeypatch)
    between(monkeypatch, 1, lambda: pq.write_table(catalogue(6), path, row_group_size=2))
    with pytest.raises(SourceError, match="changed while it was read"):
        items_ingest.ingest_items(lake, source, ITEMS, NOW, WHO, InProcess(ComputeSpec()))


def spread(monkeypatch: pytest.MonkeyPatch, chunk: int = 2) -> None:
    """Let any source with partitions be read by workers, where there is a cluster or `InProcess` stands for one."""
    monkeypatch.setattr(files, "PARTITION_ROWS", 1)
    for module in (events_ingest, items_ingest):
        monkeypatch.setattr(module, "CHUNK_ROWS", chunk)
        monkeypatch.setattr(module, "partitions_for_workers", partitions_for)


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
    st.tuples(
        st.sampled_from("uv"), st.sampled_from("abz"), st.sampled_from([0, 1, 5, 9]), st.sampled_from(["", "p", "q"])
    ),
    min_size=1,
    max_size=9,
)


@given(before=ROWS, rows=ROWS, clicks_before=CLICKS, clicks=CLICKS, chunk=st.integers(1, 4), group=st.integers(1, 4))
@settings(max_examples=10, deadline=timedelta(seconds=60))
def test_workers_write_the_files_that_one_process_writes(
    before: Any, rows: Any, clicks_before: Any, clicks: Any, chunk: int, group: int
) -> None:
    """Byte by byte, with items and events that come again in another part, or were there before."""
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        spread(patch, chunk)
        lakes = []
        for compute in (None, InProcess(ComputeSpec())):
            lake = Lake(str(folder / str(len(lakes))))
            counts = []
            for number, some in enumerate((before, rows)):
                source = parquet(folder / f"items-{number}.parquet", ("item_id", "title"), some, group)
                counts.append(outcome(items_ingest.ingest_items(lake, source, ITEMS, NOW, WHO, compute)))
            names = "user_id", "item_id", "event_time", "event_id"
            for number, some in enumerate((clicks_before, clicks)):
                source = parquet(folder / f"log-{number}.parquet", names, some, group)
                done = events_ingest.ingest_interactions(lake, source, EVENTS, NOW, WHO, LogResources(compute))
                counts.append(outcome(done))
            refused = lake.frame("quarantine").drop("at").sort("quarantine_id", "status")
            tables = [sorted(lake.file_names(each, lake.version(each))) for each in ("items", "interactions")]
            lakes.append((counts, refused.to_dicts(), tables))
        assert lakes[0] == lakes[1]


def outcome(done: IngestedSource) -> dict[str, Any]:
    """Return all that is told of a source that was read, but the source."""
    return {each.name: getattr(done, each.name) for each in fields(done) if each.name != "source"}


def parquet(path: Path, names: tuple[str, ...], rows: list[tuple[Any, ...]], group: int) -> Source:
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    if "event_time" in columns:
        columns["event_time"] = [1_700_000_000 + 86_400 * each for each in columns["event_time"]]
    pq.write_table(pa.table(columns), path, row_group_size=group)
    (source,) = find_sources(str(path))
    return source


def mortal(folder: Path, deaths: int) -> Job[SourcePartition, int]:
    """Return a job of which one unit ends the process, until it was tried so often."""

    class Mortal:
        stage = type("Stage", (), {"name": "tasks"})  # sent with its code, as workers do not import this module

        def start(self) -> Callable[[SourcePartition], int]:
            return self._made

        def _made(self, unit: SourcePartition) -> int:
            if unit.first == 2 and len(list(folder.iterdir())) < deaths:
                (folder / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return unit.first

    return Mortal()


def test_partitions_of_a_worker_that_dies_are_given_to_others_and_come_in_order(
    tmp_path: Path, ray_cluster: None
) -> None:
    units, compute = [SourcePartition(first, 1, first) for first in range(5)], OnRay(ComputeSpec())
    assert list(made_in_order(compute, mortal(tmp_path, 1), units)) == [0, 1, 2, 3, 4]
    (tmp_path / "again").mkdir()
    with pytest.raises(WorkerDied, match="a worker of stage Stage died"):
        list(made_in_order(compute, mortal(tmp_path / "again", 9), units))


def test_workers_of_a_cluster_read_a_large_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    monkeypatch.setattr(partitions, "MIN_ROWS_OF_TWO", 100)
    monkeypatch.setattr(files, "PARTITION_ROWS", 1)
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
    monkeypatch.setattr(partitions, "machine_cpus", lambda: 2)
    compute, found = OnRay(ComputeSpec()), []
    for each in (None, compute):
        lake = Lake(str(tmp_path / str(len(found))))
        (items,), (events,) = (find_sources(str(tmp_path / name)) for name in ("items.parquet", "log.parquet"))
        assert bool(partitions_for_workers(lake, items, ITEMS, each)) == (each is not None)
        done = items_ingest.ingest_items(lake, items, ITEMS, NOW, WHO, each)
        logged = events_ingest.ingest_interactions(lake, events, EVENTS, NOW, WHO, LogResources(each))
        tables = [sorted(lake.file_names(table, lake.version(table))) for table in ("items", "interactions")]
        refused = lake.frame("quarantine", columns=["quarantine_id"])["quarantine_id"].sort().to_list()
        found.append((done.stages, done.columns, logged.stages, logged.columns, refused, tables))
    assert found[0] == found[1]
    assert found[1][2][0].by_reason == {"unknown_item": 60, "duplicate_event": 40}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_only_large_sources_are_read_by_workers_and_only_by_those_that_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    pq.write_table(catalogue(100), tmp_path / "items.parquet", row_group_size=50)
    (here,) = find_sources(str(tmp_path / "items.parquet"))
    there = replace(here, filesystem=pafs.SubTreeFileSystem("/", here.filesystem))
    lakes = Lake(str(tmp_path / "lake")), Lake("s3://bucket/lake")
    monkeypatch.setattr(files, "PARTITION_ROWS", 1)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379" if elsewhere else "")

    def workers(compute: Compute, cpus: int, lake: Lake = lakes[1], source: Source = there, **limits: int) -> int:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {"MIN_ROWS": 100, "MIN_ROWS_OF_TWO": 100, **limits}.items():
                patch.setattr(partitions, name, value)
            patch.setattr(partitions, "machine_cpus", lambda: cpus)
            return len(partitions_for_workers(lake, source, ITEMS, compute))

    ray = OnRay(ComputeSpec())
    assert workers(ray, 3) == workers(ray, 2) == 2
    assert workers(ray, 3, source=here) == workers(ray, 3, lakes[0]) == (0 if elsewhere else 2), (
        "what others do not see"
    )
    assert workers(ray, 1) == workers(ray, 2, MIN_ROWS_OF_TWO=101) == (2 if elsewhere else 0)
    assert workers(ray, 3, MIN_ROWS=101) == workers(ray, 3, MAX_ROWS=49) == workers(InProcess(ComputeSpec()), 3) == 0


def test_an_event_whose_id_is_stored_far_from_the_rest_of_its_part_conflicts_also_if_the_part_is_judged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second part has the stored event again, which is unchanged, and one of the first part."""
    spread(monkeypatch)
    names, day = ("user_id", "item_id", "event_time", "event_id"), 20
    lake, compute = Lake(str(tmp_path / "lake")), InProcess(ComputeSpec())
    items = parquet(tmp_path / "items.parquet", ("item_id", "title"), [("a", "mug")], 1)
    items_ingest.ingest_items(lake, items, ITEMS, NOW, WHO)
    before = parquet(tmp_path / "before.parquet", names, [("u", "a", 0, "x")], 1)
    events_ingest.ingest_interactions(lake, before, EVENTS, NOW, WHO)
    first, second = [(day, "w"), (day, "y"), (day, "z")], [(0, "x"), (day, "x"), (day, "y")]
    rows = [("u", "a", time, event) for time, event in first + second]
    log = parquet(tmp_path / "log.parquet", names, rows, 3)
    monkeypatch.setattr(events_ingest, "CHUNK_ROWS", 3)
    done = events_ingest.ingest_interactions(lake, log, EVENTS, NOW, WHO, LogResources(compute)).stages[0]
    assert (done.out, done.unchanged) == (3, 1)
    assert done.by_reason == {"conflicting_event": 1, "duplicate_event": 1}
    assert sorted(lake.frame("interactions")["event_id"]) == ["w", "x", "y", "z"]


def test_a_run_that_stops_between_two_partitions_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit after the first fails; what the second run finds, and what it writes, is what one run would have."""
    spread(monkeypatch)
    compute = InProcess(ComputeSpec())
    names = ("user_id", "item_id", "event_time")
    items = parquet(tmp_path / "items.parquet", ("item_id", "title"), [(each, "mug") for each in "abcdef"], 2)
    log = parquet(tmp_path / "log.parquet", names, [("u", each, 1) for each in "abcxef"], 2)
    found = []
    for stops in (False, True):
        lake = Lake(str(tmp_path / str(stops)))

        def read_items(lake: Lake = lake) -> IngestedSource:
            return items_ingest.ingest_items(lake, items, ITEMS, NOW, WHO, compute)

        def read_log(lake: Lake = lake) -> IngestedSource:
            return events_ingest.ingest_interactions(lake, log, EVENTS, NOW, WHO, LogResources(compute))

        for read in (read_items, read_log):
            if stops:
                with pytest.MonkeyPatch.context() as patch:
                    between(patch, 1, interrupt)
                    with pytest.raises(KeyboardInterrupt):
                        read()
            read()
        open_rows = lake.frame("quarantine", columns=["source_row", "reason", "subject"]).unique().to_dicts()
        tables = [sorted(lake.frame(each).drop("source").rows()) for each in ("interactions",)]
        found.append((sorted(lake.frame("items", columns=["item_id", "revision"]).rows()), tables, open_rows))
    assert found[0] == found[1]


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_worker_that_hashes_ids_otherwise_says_so() -> None:
    require_same_hashes(hash_probe())
    with pytest.raises(SourceError, match="install the same version on all nodes"):
        require_same_hashes(hash_probe() + 1)


def test_tables_of_a_catalog_are_read_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog has connections and secrets."""
    declare(monkeypatch, tmp_path)
    made(tmp_path, rows_of_iceberg(a="mug", b="bowl"))
    (source,) = source_kind_of(ADDRESS).find(ADDRESS, ITEMS, []).sources
    assert isinstance(source, Partitioned)
    assert source.partitions(ITEMS) == []
