"""A lake that was copied without its newest log entries is noticed before a run builds on it."""

import json
import shutil
from pathlib import Path

import pytest
from made_releases import WHO, candidate, model, publish, sids

from storage.errors import DataCorrupt
from storage.files.table_log import Log
from storage.lake import Lake
from storage.releases.completeness import lost_commits, require_complete


def cut(lake: Path, table: str, entries: int = 1) -> None:
    """Delete the newest entries of a log, and what was written with them."""
    for path in sorted((lake / table / "_delta_log").glob("*.json"))[-entries:]:
        path.unlink()


def test_a_release_or_a_model_that_is_named_and_not_recorded_is_missed(tmp_path: Path) -> None:
    for table, told in (("releases", "production points to r-000002"), ("models", "production points to m-000001")):
        lake = Lake(str(tmp_path / table))
        for key in ("one", "two"):
            made = candidate(lake, key, ["a"]).id
        publish(lake, made, WHO, model(lake, "m", made, "v-c1"))
        cut(tmp_path / table, table)
        shutil.rmtree(tmp_path / table / "models") if table == "models" else None
        assert any(told in fault for fault in lost_commits(Lake(lake.uri)))


def lost(lake: Path) -> list[str]:
    """Return the faults of a lake, without the beginning and the remedy that all sentences have."""
    found = list(lost_commits(Lake(str(lake))))
    assert all(each.startswith(f"the lake {lake} has lost commits: ") for each in found)
    return [each.split("commits: ")[1].split(". It was")[0] for each in found]


def test_a_checkpoint_that_outlived_its_entries_is_missed(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    for number in range(25):
        sids(lake, "c", f"s{number}")
    checkpoint = Log(lake.table_files("sids"), "sids").checkpoints[-1]
    shutil.copytree(tmp_path / "lake", tmp_path / "bare")
    for path in (tmp_path / "bare" / "sids" / "_delta_log").glob("*.json"):
        path.unlink()
    assert lost(tmp_path / "bare") == [
        f"table 'sids' has no commit, but its last checkpoint is of version {checkpoint}"
    ]
    for path in (tmp_path / "lake" / "sids" / "_delta_log").iterdir():
        if path.name[:20].isdigit() and int(path.name[:20]) >= checkpoint:
            path.unlink()
    assert lost(tmp_path / "lake") == [
        f"table 'sids' ends at version {checkpoint - 1}, but its last checkpoint is of version {checkpoint}"
    ]


def test_of_each_table_it_is_told_that_it_is_gone_or_ends_too_early_and_nothing_of_a_whole_lake(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "whole"))
    first = candidate(lake, "one", ["a"]).id
    candidate(lake, "two", ["b"])
    publish(lake, first, WHO, model(lake, "m", first, "v-c1"))
    assert lost(tmp_path / "whole") == []
    for table, gone, short in (
        ("sids", "the newest commit of table 'releases' has seen version 2", "ends at version 1"),
        ("releases", "the newest commit of table 'models' has seen version 2", "ends at version 1"),
        ("models", "the newest commit of table 'pointers' has seen version 1", "ends at version 0"),
        ("pointers", "the newest commit of table 'sids' has seen version 0", ""),
    ):
        copy = tmp_path / table
        shutil.copytree(tmp_path / "whole", copy)
        if short:
            cut(copy, table)
            assert lost(copy)[0] == f"table '{table}' {short}, but {gone}"
        shutil.rmtree(copy / table)
        with pytest.raises(DataCorrupt, match="has lost commits"):
            require_complete(Lake(str(copy)))
        assert lost(copy)[0] == f"table '{table}' has no commit, but {gone}"


def test_what_a_release_pins_and_a_model_was_trained_on_is_missed_whatever_commits_have_seen(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    candidate(lake, "one", ["a"], versions={"items": 5})
    model(lake, "m", "r-000009", "v-c1")
    assert lost(tmp_path) == [
        "table 'items' has no commit, but r-000001 pins version 5",
        "m-000001 was trained on r-000009, which table 'releases' does not have",
    ]


def test_commits_say_what_their_writer_had_seen(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    made = candidate(lake, "one", ["a"])
    entries = sorted((tmp_path / "releases" / "_delta_log").glob("*.json"))
    seen = json.loads(entries[-1].read_text().splitlines()[0])["commitInfo"]["sidmill.seen"]
    assert json.loads(seen)["sids"] == made.versions["sids"]
