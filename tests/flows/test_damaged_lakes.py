"""A lake that was damaged anywhere is told in one line that names the place, whatever a library raises."""

import shutil
from pathlib import Path

import pytest

from flows.cli.main import run_command
from flows.inspect.verify import verify
from storage.errors import DataCorrupt, in_one_line
from storage.files.table_log import Log
from storage.lake import Lake
from storage.releases.releases import published


def test_a_changed_byte_anywhere_in_an_entry_of_a_log_is_told_or_changes_nothing(lake_of_format_2: Lake) -> None:
    files = lake_of_format_2.table_files("sids")
    path = Path(files.uri) / "_delta_log" / f"{max(Log(files, 'sids').entries):020d}.json"
    whole, told = path.read_bytes(), 0
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        faults = list(Log(files, "sids").faults())
        assert all("restore the folder _delta_log" in fault and "\n" not in fault for fault in faults)
        told += len(faults)
    assert told > len(whole) / 4


def test_a_file_in_the_place_of_a_table_is_told_with_its_name(
    lake_of_format_2: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Path(lake_of_format_2.path("sids"))
    shutil.rmtree(table)
    table.write_text("x")
    with pytest.raises(DataCorrupt, match="sids is a file, but the log of a table is in a folder there"):
        Lake(lake_of_format_2.uri).read("sids")
    for command in (["lake", "status"], ["lake", "verify"]):
        assert run_command([*command, "--lake", lake_of_format_2.uri]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{table} is a file" in line


def test_what_production_serves_is_told_where_other_tables_are_damaged(
    lake_of_format_2: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    served = published(lake_of_format_2)
    assert served is not None
    for table in ("items", "runs"):
        entries = Path(lake_of_format_2.path(table)) / "_delta_log"
        sorted(entries.glob("*.json"))[0].write_bytes(b"{")
    assert run_command(["lake", "status", "--lake", lake_of_format_2.uri]) == 1
    told = capsys.readouterr()
    assert f"production: {served.release}" in told.out
    assert "restore the folder _delta_log" in told.err
    faults = [finding.fault or "" for finding in verify(Lake(lake_of_format_2.uri))]
    assert not any("differ" in fault for fault in faults), "a trie is no fault of a table that is gone"


@pytest.mark.parametrize("table", ["items", "sids", "vectors", "codebooks", "releases", "pointers"])
def test_a_lake_without_the_folder_of_a_table_is_verified_to_its_end(lake_of_format_2: Lake, table: str) -> None:
    shutil.rmtree(lake_of_format_2.path(table))
    wrong = [finding for finding in verify(Lake(lake_of_format_2.uri)) if finding.fault is not None]
    assert any(table in f"{finding.what} {finding.fault}" for finding in wrong)


@pytest.mark.parametrize("marker", ['{"format": 2.5}', '{"format": true}', '{"format": 0}', "[]", "2", '"x"', "{}", ""])
def test_a_format_that_is_no_number_of_a_format_is_not_taken_for_one(lake_of_format_2: Lake, marker: str) -> None:
    (Path(lake_of_format_2.uri) / "lake.json").write_text(marker)
    with pytest.raises(DataCorrupt, match=r"lake\.json is damaged"):
        Lake(lake_of_format_2.uri).read("sids")


def test_a_lake_whose_marker_is_lost_is_told_from_one_of_format_1(
    lake_of_format_2: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(lake_of_format_2.uri) / "lake.json").unlink()
    (wrong,) = [found for found in verify(Lake(lake_of_format_2.uri)) if found.fault is not None]
    assert wrong.what == "format"
    assert "lake.json is missing" in str(wrong.fault)
    assert run_command(["lake", "migrate", "--lake", lake_of_format_2.uri]) == 0
    capsys.readouterr()
    assert not [found for found in verify(Lake(lake_of_format_2.uri)) if found.fault is not None]


def test_a_lake_of_format_1_is_verified_without_a_fault(old_lake: Lake) -> None:
    assert not [found for found in verify(old_lake) if found.fault is not None]


def test_what_a_library_says_in_many_lines_is_told_in_one() -> None:
    said = "Kernel error: Json error: Truncated record\n   0: <unknown>\n   1: start\n         at ./nptl/x.c:442:8\n"
    assert in_one_line(ValueError(said)) == "Kernel error: Json error: Truncated record"
    said = "Generic error\n  \x1b[31m↳\x1b[0m Unable to walk dir\n   \x1b[31m↳\x1b[0m Not a directory (os error 20)\n\n"
    assert in_one_line(OSError(said)) == "Generic error: Unable to walk dir: Not a directory (os error 20)"
    assert in_one_line(KeyError()) == "KeyError"
