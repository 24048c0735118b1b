"""A night reads what is new: as many rows of a catalogue of ten times the items."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.dataset as ds
import pytest

import pipelines.neighbours
from flows.bootstrap import bootstrap
from flows.nightly import nightly
from storage.files import data_files
from storage.lake import Lake

NEW, EVENTS = 60, 300
TABLES = ("items", "vectors", "sids")
RECIPE: dict[str, Any] = {
    "collaborative": {"method": "sppmi", "dim": 8},
    "fusion": {"dim": 8, "hidden": 8, "epochs": 1, "steps": 5, "batch_size": 64},
    "codebook": {"levels": [{"codes": 32}] * 3, "iterations": 3, "sample": 512},
    "compute": {"in_process_below": 1_000_000},
}


def delivery(folder: Path, items: range, changed: range, known: int, hour: int) -> dict[str, Any]:
    """Items, some of which were there and changed, with their vectors, and events on any item."""
    folder.mkdir()
    draw = np.random.default_rng(hour)
    ids = [f"i{number:06d}" for number in [*changed, *items]]
    titles = [f"Item {name} {hour}" for name in ids]
    pl.DataFrame({"item_id": ids, "title": titles}).write_parquet(folder / "items.parquet")
    rows = draw.standard_normal((len(ids), 8)).tolist()
    pl.DataFrame({"item_id": ids, "vector": rows}).write_parquet(folder / "vectors.parquet")
    taken = draw.integers(0, known, EVENTS)
    taken[::3] = draw.integers(items.start, items.stop, len(taken[::3]))
    times = pl.datetime_range(
        pl.datetime(2026, 1, 1, hour), pl.datetime(2026, 1, 1, hour, 50), "10s", time_zone="UTC", eager=True
    )[:EVENTS]
    pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in draw.integers(0, 30, EVENTS)],
            "item_id": [f"i{number:06d}" for number in taken],
            "event_time": times,
        }
    ).write_parquet(folder / "log.parquet")
    return {"items": [str(folder / "items.parquet")], "interactions": [str(folder / "log.parquet")]}


def rows_of_night(folder: Path, items: int, patch: pytest.MonkeyPatch) -> Counter[str]:
    """Return the rows of the row groups that a night reads, by table."""
    folder.mkdir()
    lake = Lake(str(folder / "lake"))
    first = delivery(folder / "first", range(items), range(0), items, 0)
    given = {"mine": {"path": str(folder / "first" / "vectors.parquet")}}
    bootstrap(lake.uri, {**RECIPE, "vectors": given}, **first)
    night = delivery(folder / "night", range(items, items + NEW), range(5, 8), items, 2)
    read, plain = Counter[str](), Lake._dataset

    def counted(
        self: Lake, table: str, files: list[data_files.DataFile], where: ds.Expression | None, *others: Any
    ) -> ds.FileSystemDataset:
        dataset = plain(self, table, files, where, *others)
        counting = (
            sys._getframe(1).f_code.co_name == "count"
        )  # of conditions that bounds decide, it reads footers alone
        if table in TABLES and not counting:
            for each in dataset.get_fragments(where):
                parts = each.split_by_row_group(where, dataset.schema)
                read[table] += sum(group.num_rows for part in parts for group in part.row_groups)
        return dataset

    with patch.context() as here:
        here.setattr(Lake, "_dataset", counted)
        made = nightly(lake.uri, overrides=[f"vectors.mine.path={folder / 'night' / 'vectors.parquet'}"], **night)
    assert made["made"]
    return read


def test_a_night_reads_as_many_rows_of_ten_times_the_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "MIN_GROUP_ROWS", 64)
    monkeypatch.setattr(data_files, "GROUP_BYTES", 1)
    monkeypatch.setattr(pipelines.neighbours, "RUNS", 2)
    monkeypatch.setattr(pipelines.neighbours, "RUN_LENGTH", 64)
    few, many = (rows_of_night(tmp_path / str(items), items, monkeypatch) for items in (400, 4_000))
    for table in TABLES:
        assert 0 < many[table] <= 1.5 * few[table], (table, few, many)
