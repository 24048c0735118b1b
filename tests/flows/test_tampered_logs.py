"""Entries of logs that were moved, copied, brought from another lake or written by another program."""

import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from conftest import FORMAT_2_LAKE
from flows.cli.main import run_command
from flows.inspect.verify import verify
from storage.commit import Provenance
from storage.errors import DataCorrupt
from storage.files.table_log import Log
from storage.lake import Lake
from storage.releases.completeness import require_complete
from storage.releases.publishing import hold
from storage.runs.beats import beats


def entries(lake: Lake, table: str) -> list[Path]:
    return sorted((Path(lake.path(table)) / "_delta_log").glob("*.json"))


def faults(lake: Lake) -> list[str]:
    return [finding.fault for finding in verify(Lake(lake.uri)) if finding.fault is not None]


@pytest.mark.parametrize("table", ["items", "sids", "pointers", "releases", "runs"])
def test_entries_that_changed_places_are_found(lake_of_format_2: Lake, table: str) -> None:
    assert faults(lake_of_format_2) == []
    last, before = entries(lake_of_format_2, table)[-1:-3:-1]
    one, other = last.read_bytes(), before.read_bytes()
    last.write_bytes(other)
    before.write_bytes(one)
    assert any(f"{before.name} of the log of table '{table}'" in fault for fault in faults(lake_of_format_2))
    (fault, *_) = Log(lake_of_format_2.table_files(table), table).faults()
    assert "was moved: its writer had seen version" in fault


@pytest.mark.parametrize("table", ["items", "pointers"])
def test_a_copy_of_an_entry_is_found(lake_of_format_2: Lake, table: str) -> None:
    number, path = len(entries(lake_of_format_2, table)), entries(lake_of_format_2, table)[-1]
    version = int(path.stem)
    assert number > 0
    path.with_name(f"{version + 1:020d}.json").write_bytes(path.read_bytes())
    assert any(f"is a copy of the entry of version {version}" in fault for fault in faults(lake_of_format_2))


@pytest.fixture
def other_lake(tmp_path: Path) -> Path:
    """The stored lake again, whose runs have other names, as those of another lake have."""
    with tarfile.open(FORMAT_2_LAKE) as archive:
        archive.extractall(tmp_path / "other", filter="data")
    return tmp_path / "other" / "lake"


def of_another_lake(lake: Lake, other: Path) -> None:
    for path in (other / "items" / "_delta_log").glob("*.json"):
        path.write_text(path.read_text().replace('"sidmill.run":"bootstrap-2', '"sidmill.run":"bootstrap-1'))
    for path in (other / "items" / "_delta_log").glob("*.json"):
        path.write_text(path.read_text().replace('"sidmill.run":"nightly-2', '"sidmill.run":"nightly-1'))
    shutil.rmtree(lake.path("items"))
    shutil.copytree(other / "items", lake.path("items"))


def row_of_another_program(lake: Lake, _: Path) -> None:
    table = DeltaTable(lake.path("pointers"))
    rows = pa.table(table.to_pyarrow_dataset().to_table())
    newest = max((row for row in rows.to_pylist() if row["name"] == "production"), key=lambda row: row["sequence"])
    moved = {**newest, "sequence": newest["sequence"] + 1}
    write_deltalake(lake.path("pointers"), pa.Table.from_pylist([moved], schema=rows.schema), mode="append")


def test_rows_of_another_program_stop_a_run_before_it_writes(lake_of_format_2: Lake, other_lake: Path) -> None:
    require_complete(lake_of_format_2)
    row_of_another_program(lake_of_format_2, other_lake)
    told = "another program wrote rows into table 'pointers'"
    with pytest.raises(DataCorrupt, match=told):
        require_complete(Lake(lake_of_format_2.uri))
    assert any(told in fault for fault in faults(lake_of_format_2))


def test_a_table_of_another_lake_is_found_by_verify(lake_of_format_2: Lake, other_lake: Path) -> None:
    of_another_lake(lake_of_format_2, other_lake)
    assert any("one of the two tables is of another lake" in fault for fault in faults(lake_of_format_2))


def test_rows_of_another_program_below_later_commits_are_found_by_verify(
    lake_of_format_2: Lake, other_lake: Path
) -> None:
    row_of_another_program(lake_of_format_2, other_lake)
    hold(Lake(lake_of_format_2.uri), Provenance("test", "", by_hand=True))
    assert any("another program wrote rows into table 'pointers'" in fault for fault in faults(lake_of_format_2))


def test_a_folder_in_the_place_of_a_blob_is_a_missing_blob(lake_of_format_2: Lake) -> None:
    for path in [each for each in Path(lake_of_format_2.path("blobs")).rglob("*") if each.is_file()]:
        path.unlink()
        path.mkdir()
    found = faults(lake_of_format_2)
    assert found
    assert all("is missing at" in fault and "Errno" not in fault for fault in found)


def test_a_damaged_sign_of_life_is_told_with_its_name(
    lake_of_format_2: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(lake_of_format_2.uri) / "beats" / "nightly.json"
    path.parent.mkdir(exist_ok=True)
    for text in (b"\0{", b"[]", b'{"kind": "nightly"}', b""):
        path.write_bytes(text)
        with pytest.raises(DataCorrupt, match=r"nightly\.json, which says .* is damaged: delete it"):
            beats(lake_of_format_2)
    assert run_command(["lake", "status", "--lake", lake_of_format_2.uri]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line


@pytest.mark.parametrize("words", [["lake", "status"], ["release", "show", "r-000001"], ["run", "train"]])
def test_a_lake_that_published_and_lost_its_releases_is_not_told_to_make_the_first_one(
    lake_of_format_2: Lake, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(lake_of_format_2.path("releases"))
    assert run_command([*words, "--lake", lake_of_format_2.uri]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert "the table 'releases' of the lake" in line
    assert "restore its folder from a backup" in line
    assert "bootstrap" not in line
