"""Two runs that read sources with common rows at once store what they would have stored one after the other.

One of them may have workers that read partitions.
"""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_whole_ingest import partitions_for

import storage.commit
from pipelines.compute.executors import Compute, InProcess
from pipelines.ingest.events import ingest as events_ingest
from pipelines.ingest.events.ingest import LogResources, ingest_interactions
from pipelines.ingest.items import ingest as items_ingest
from pipelines.ingest.items.ingest import ingest_items
from pipelines.sources import files
from pipelines.sources.files import find_sources
from pipelines.sources.protocol import Source
from pipelines.sources.source_spec import InteractionsSpec, ItemsWithoutImages
from pipelines.spec import ComputeSpec
from storage.commit import Provenance
from storage.lake import Lake
from storage.releases.catalogue import catalogue

WHO = Provenance("test", "recipe")
NOW = datetime(2026, 9, 1, tzinfo=UTC)
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
LOGS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True)


def between(monkeypatch: pytest.MonkeyPatch, place: int, act: Callable[[], object]) -> None:
    """Run `act` once, between the decision on the rows of commit number `place` and that commit."""
    commit, seen = storage.commit._commit_alone, list[int]()

    def later(*arguments: Any, **others: Any) -> Any:
        seen.append(0)
        if len(seen) == place + 1:
            act()
        return commit(*arguments, **others)

    monkeypatch.setattr(storage.commit, "_commit_alone", later)


def log_file(folder: Path, name: str, events: list[str]) -> Path:
    """A log; the event of a letter is the same in every log."""
    path = folder / f"{name}.csv"
    rows = [f"e-{each},u,i,{(FIRST + timedelta(hours=ord(each))).isoformat()}" for each in events]
    return written(path, ["event_id,user_id,item_id,event_time", *rows])


def written(path: Path, lines: list[str]) -> Path:
    """Write a CSV and, beside it, the same rows as Parquet in partitions."""
    path.write_text("\n".join(lines) + "\n")
    pq.write_table(pl.read_csv(path, infer_schema=False).to_arrow(), path.with_suffix(".parquet"), row_group_size=2)
    return path


def read_log(lake: Lake, path: Path, by_workers: bool = False) -> int:
    source, compute = source_of(path, by_workers)
    return ingest_interactions(lake, source, InteractionsSpec(), NOW, WHO, LogResources(compute)).stages[0].out


def read_items(lake: Lake, path: Path, by_workers: bool = False) -> int:
    source, compute = source_of(path, by_workers)
    return ingest_items(lake, source, ItemsWithoutImages(), NOW, WHO, compute).stages[0].out


def source_of(path: Path, by_workers: bool) -> tuple[Source, Compute | None]:
    found = find_sources(str(path.with_suffix(".parquet") if by_workers else path))[0]
    return found, InProcess(ComputeSpec()) if by_workers else None


def items_file(folder: Path, name: str, titles: dict[str, str]) -> Path:
    path = folder / f"{name}.csv"
    return written(path, ["item_id,title", *(f"{item},{title}" for item, title in titles.items())])


@given(first=LOGS, second=LOGS, chunk=st.integers(1, 8), place=st.integers(0, 2), by_workers=st.booleans())
@settings(max_examples=10, deadline=None)
def test_an_event_of_two_logs_that_are_read_at_once_is_stored_once(
    first: list[str], second: list[str], chunk: int, place: int, by_workers: bool
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(files, "PARTITION_ROWS", 1)
        monkeypatch.setattr(events_ingest, "CHUNK_ROWS", chunk)
        monkeypatch.setattr(events_ingest, "partitions_for_workers", partitions_for)
        lake = Lake(f"{folder}/lake")
        read_items(lake, items_file(Path(folder), "items", {"i": "mug"}))
        logs = [log_file(Path(folder), name, rows) for name, rows in (("one", first), ("two", second))]
        counts = list[int]()
        between(monkeypatch, place, lambda: counts.append(read_log(lake, logs[1])))
        counts.append(read_log(lake, logs[0], by_workers))
        stored = lake.frame("interactions")["event_id"].to_list()
        expected = {*first, *second} if len(counts) == 2 else {*first}
        assert sorted(stored) == sorted(f"e-{each}" for each in expected)
        assert sum(counts) == len(stored), "each run counts what it wrote itself"


TITLES = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["mug", "cup"]), min_size=1)


@given(
    before=TITLES,
    first=TITLES,
    second=TITLES,
    chunk=st.integers(1, 4),
    place=st.integers(0, 2),
    by_workers=st.booleans(),
)
@settings(max_examples=10, deadline=None)
def test_an_item_of_two_catalogues_that_are_read_at_once_gets_a_revision_for_each_change(
    before: dict[str, str], first: dict[str, str], second: dict[str, str], chunk: int, place: int, by_workers: bool
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(files, "PARTITION_ROWS", 1)
        monkeypatch.setattr(items_ingest, "CHUNK_ROWS", chunk)
        monkeypatch.setattr(items_ingest, "partitions_for_workers", partitions_for)
        lake = Lake(f"{folder}/lake")
        named = (("before", before), ("one", first), ("two", second))
        named_files = [items_file(Path(folder), name, rows) for name, rows in named]
        read_items(lake, named_files[0])
        between(monkeypatch, place, lambda: read_items(lake, named_files[2]))
        read_items(lake, named_files[1], by_workers)
        rows = lake.frame("items").sort("item_id", "revision")
        revisions = rows.group_by("item_id", maintain_order=True).agg("revision", "title")
        for _, numbers, titles in revisions.iter_rows():
            assert numbers == list(range(len(numbers))), "revisions follow each other"
            assert all(one != other for one, other in itertools.pairwise(titles)), "each is a change"
        newest = dict(catalogue(lake).select("item_id", "title").iter_rows())
        assert all(newest[item] in {first[item], second.get(item)} for item in first)


def test_a_row_that_waited_for_its_item_and_comes_in_another_log_meanwhile_is_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.ingest.events.waiting import admit_waiting

    lake = Lake(str(tmp_path / "lake"))
    read_items(lake, items_file(tmp_path, "first", {"other": "mug"}))
    assert read_log(lake, log_file(tmp_path, "one", ["a", "b"])) == 0
    read_items(lake, items_file(tmp_path, "second", {"i": "mug"}))
    between(monkeypatch, 0, lambda: read_log(lake, log_file(tmp_path, "two", ["b", "c"])))
    assert admit_waiting(lake, NOW, WHO) == 1
    stored = lake.frame("interactions").sort("event_id")
    assert stored["event_id"].to_list() == ["e-a", "e-b", "e-c"]
    assert stored.filter(pl.col("source").str.starts_with("two"))["event_id"].to_list() == ["e-b", "e-c"]
