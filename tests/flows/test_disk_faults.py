"""Disks that are full or read-only during a run: one line tells it; with room, the same command ends as if never."""

import os
import shutil
from pathlib import Path

import pytest
from disks import full, read_only, small_disk

from bench.faults.lake_contents import contents, differences, faults
from bench.runs.nights import RECIPE, catalogue_of, log_of
from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from storage.lake import Lake

ITEMS = 40


@pytest.mark.slow
def test_a_night_on_a_disk_that_is_full_at_any_moment_says_so_and_is_finished_when_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk has room for less and less of what the night leaves, in pages of 4 kB."""
    first = [catalogue_of(tmp_path, *range(ITEMS))], [log_of(tmp_path, 0)]
    news = ["--items", catalogue_of(tmp_path, ITEMS + 1), "--interactions", log_of(tmp_path, 1)]
    with small_disk(tmp_path / "disk", "4m") as disk:
        lake, start = disk / "lake", tmp_path / "start"
        night = ["run", "nightly", *news, "--as-of", "2024-03-02", "--lake", str(lake)]
        bootstrap(str(lake), RECIPE, *first, "2024-03-01", "2024-02-20")
        shutil.copytree(lake, start)
        before = os.statvfs(disk).f_bfree
        assert run_command(night) == 0
        left = before - os.statvfs(disk).f_bfree
        whole = contents(Lake(str(lake)))
        for pages in (0, 2, *(int(share * left) for share in (0.1, 0.25, 0.4, 0.6, 0.8))):
            shutil.rmtree(lake)
            shutil.copytree(start, lake)
            capsys.readouterr()
            with full(disk, pages):
                assert run_command(night) == 1
            (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sidmill: error")]
            assert f"cannot write to {lake}" in told
            assert "the disk is full (No space left on device). Make room" in told
            assert faults(Lake(str(lake))) == []
            assert run_command(night) == 0
            assert differences(whole, contents(Lake(str(lake)))) == []


def test_a_run_on_a_read_only_lake_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk:
        lake = disk / "lake"
        bootstrap(str(lake), RECIPE, [catalogue_of(tmp_path, *range(ITEMS))], [log_of(tmp_path, 0)])
        news = ["--items", catalogue_of(tmp_path, ITEMS + 1), "--lake", str(lake)]
        capsys.readouterr()
        with read_only(disk):
            assert run_command(["run", "nightly", *news]) == 1
        said = capsys.readouterr()
    told = [line for line in (said.out + said.err).splitlines() if "cannot write to" in line]
    assert len(told) == 1
    assert told[0].startswith(f"sidmill: error: cannot write to {lake}")
    assert "Read-only file system" in told[0]
