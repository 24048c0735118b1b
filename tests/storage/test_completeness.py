"""A lake that was copied without its newest log entries is noticed before a run builds on it."""

import json
import shutil
from pathlib import Path

from made_releases import WHO, candidate, model, sids

from storage.files.table_log import Log
from storage.lake import Lake
from storage.releases.completeness import lost_commits
from storage.releases.publishing import publish


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


def test_a_checkpoint_that_outlived_its_entries_is_missed(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for number in range(25):
        sids(lake, "c", f"s{number}")
    log = Log(lake.table_files("sids"), "sids")
    for path in (tmp_path / "sids" / "_delta_log").iterdir():
        if path.name[:20].isdigit() and int(path.name[:20]) >= log.checkpoints[-1]:
            path.unlink()
    (fault,) = lost_commits(Lake(lake.uri))
    assert "its last checkpoint is of version" in fault


def test_commits_say_what_their_writer_had_seen(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    made = candidate(lake, "one", ["a"])
    entries = sorted((tmp_path / "releases" / "_delta_log").glob("*.json"))
    seen = json.loads(entries[-1].read_text().splitlines()[0])["commitInfo"]["sidmill.seen"]
    assert json.loads(seen)["sids"] == made.versions["sids"]
