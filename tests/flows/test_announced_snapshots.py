"""A snapshot that an event announces: the night reads its source at that version, or refuses it in one line."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from flows.bootstrap import bootstrap
from flows.nightly import nightly
from infra.addresses import SecretInAddress
from pipelines.sources.row import SourceError
from storage.lake import Lake
from storage.releases.catalogue import catalogue
from storage.runs.record import runs

RECIPE: dict[str, Any] = {
    "text": None,
    "attributes": {"fields": ["kind", "size"], "dim": 8},
    "collaborative": None,
    "fusion": {"method": "concat", "dim": 8},
    "codebook": {"levels": [{"codes": 8}, {"codes": 8}, {"codes": 8}]},
}


def add(table: str, first: int, count: int) -> None:
    """Append items to a Delta table, as its next version."""
    names = [f"i{number:03d}" for number in range(first, first + count)]
    kinds, sizes = [f"k{int(name[1:]) % 3}" for name in names], [name[-1] for name in names]
    rows = pa.table({"item_id": names, "title": names, "kind": kinds, "size": sizes})
    write_deltalake(table, rows, mode="append")


@pytest.fixture
def table(tmp_path: Path) -> str:
    made = str(tmp_path / "items")
    add(made, 0, 24)
    return made


@pytest.fixture
def lake(tmp_path: Path, table: str) -> Lake:
    """A lake that has read version 0 of the table, which is at version 2."""
    made = Lake(str(tmp_path / "lake"))
    bootstrap(made.uri, RECIPE, [table], [])
    add(table, 24, 2)
    add(table, 26, 3)
    return made


def test_a_night_reads_its_table_at_the_version_that_is_announced_and_the_next_one_what_came_after(
    lake: Lake, table: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"item_id": "j", "title": "j", "kind": "k1", "size": "1"}\n')
    made = nightly(lake.uri, items=[table, str(other)], snapshot=f"{table}/@v1")
    assert made["published"]
    assert len(catalogue(lake)) == 24 + 2 + 1, "the other source is read as always"
    (night,) = [each for each in runs(lake) if each.kind == "nightly"]
    assert night.parameters["snapshot"] == f"{table}/@v1"
    assert night.parameters["items"] == [table, str(other)]
    assert lake.read("sources")["uri"].to_pylist().count(f"{table}@v1") == 1
    assert not nightly(lake.uri, items=[table], snapshot=f"{table}@v1")["made"], "it was read before"
    assert nightly(lake.uri, items=[table])["made"]
    assert len(catalogue(lake)) == 24 + 2 + 3 + 1


@pytest.mark.parametrize(
    ("snapshot", "message"),
    [
        ("{table}-else@v1", "is of no source that this night reads.*Name one of them with its version"),
        ("nothing that is an address", "is of no source that this night reads"),
        ("{table}@v9", r"has not reached version 9: its newest is 2\. Name a version that it has"),
    ],
)
def test_a_snapshot_of_another_source_and_a_version_that_is_not_there_yet_are_refused_in_one_line(
    lake: Lake, table: str, snapshot: str, message: str
) -> None:
    with pytest.raises(SourceError, match=message) as refused:
        nightly(lake.uri, items=[table], snapshot=snapshot.format(table=table))
    assert "\n" not in str(refused.value)
    assert len(catalogue(lake)) == 24, "nothing was read"


def test_an_older_snapshot_than_what_was_read_is_refused_and_one_with_a_secret_is_not_recorded(
    lake: Lake, table: str
) -> None:
    nightly(lake.uri, items=[table])
    with pytest.raises(SourceError, match="older than version 2, which was read before"):
        nightly(lake.uri, items=[table], snapshot=f"{table}@v1")
    with pytest.raises(SecretInAddress):
        nightly(lake.uri, items=[table], snapshot="s3://bucket/items?token=s3cr3t")
    assert not any("s3cr3t" in str(each) for each in runs(lake))


def test_a_folder_of_files_is_announced_by_its_address(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"item_id": "a", "title": "a", "kind": "k1", "size": "1"}\n')
    assert nightly(lake.uri, items=[str(folder)], snapshot=str(folder))["made"]
    with pytest.raises(SourceError, match="is of no source"):
        nightly(lake.uri, items=[str(folder)], snapshot=f"{folder}@v1")
