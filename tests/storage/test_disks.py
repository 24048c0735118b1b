"""Local disks: what is on them after each commit, and one that is full or read-only."""

import os
from pathlib import Path
from typing import Any

import pytest
from disks import full, read_only, small_disk
from made_releases import WHO, sids

from storage import commit
from storage.errors import LakeUnusable
from storage.files import durable
from storage.files.store import Files
from storage.files.table_log import Log
from storage.lake import Lake
from storage.releases.pointers import move_pointer, read_pointer
from storage.schemas import PROPERTIES, TABLES


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files and folders that were synced, in order."""
    names: list[str] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        sync(descriptor)
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name.partition("-")[0])

    monkeypatch.setattr(os, "fsync", noted)
    return names


def test_a_commit_is_on_the_disk_before_anything_builds_on_it(tmp_path: Path, synced: list[str]) -> None:
    """First the data file under its first name, then the entry that names it, then the folder with the entry's name."""
    lake = Lake(str(tmp_path))
    sids(lake, "c1", "a")
    synced.clear()
    sids(lake, "c1", "b")
    assert synced == [".writing", f"{lake.version('sids'):020d}.json", "_delta_log"]
    synced.clear()
    move_pointer(lake, read_pointer(lake, "name"), 1, "note", WHO)
    assert synced == [".writing", f"{lake.version('pointers'):020d}.json", "_delta_log"]


def test_every_entry_of_a_new_table_is_on_the_disk(tmp_path: Path, synced: list[str]) -> None:
    lake = Lake(str(tmp_path))
    lake.open_or_create("quarantine")
    entries = [f"{number:020d}.json" for number in Log(lake.table_files("quarantine"), "quarantine").entries]
    assert len(entries) == 1 + len(TABLES["quarantine"].constraints)
    assert set(entries) <= set(synced)


def test_a_checkpoint_is_on_the_disk_with_its_entry(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROPERTIES, "delta.checkpointInterval", "2")
    lake = Lake(str(tmp_path))
    for name in ("a", "b", "c"):
        synced.clear()
        sids(lake, "c1", name)
        if (Path(lake.path("sids")) / "_delta_log" / f"{lake.version('sids'):020d}.checkpoint.parquet").exists():
            break
    entry = f"{lake.version('sids'):020d}"
    assert synced[-4:] == [f"{entry}.json", f"{entry}.checkpoint.parquet", "_last_checkpoint", "_delta_log"]


def test_entries_of_others_that_came_between_are_synced_too(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit is rebased on theirs: with a gap in the log it would not be read."""
    lake = Lake(str(tmp_path))
    sids(lake, "c1", "a")
    before, write = lake.version("sids"), commit.write_rows

    def late(*arguments: Any, **named: Any) -> Any:
        made = write(*arguments, **named)
        monkeypatch.setattr(commit, "write_rows", write)
        sids(Lake(lake.uri), "c1", "theirs")
        synced.clear()
        return made

    monkeypatch.setattr(commit, "write_rows", late)
    sids(lake, "c1", "mine")
    assert synced == [f"{before + 1:020d}.json", f"{before + 2:020d}.json", "_delta_log"]


def test_a_full_disk_is_told_with_its_place_and_a_remedy_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = r"cannot write to .*/{}: the disk is full \(No space left on device\). Make room: move files"
    with small_disk(tmp_path / "disk", "2m") as disk:
        lake = Lake(str(disk / "lake"))
        sids(lake, "c1", "a")
        before = lake.version("sids")
        with full(disk), pytest.raises(LakeUnusable, match=told.format("sids")):
            sids(lake, "c1", "b")
        with full(disk), pytest.raises(LakeUnusable, match=told.format("drift")):
            lake.open_or_create("drift")
        write = commit.write_rows

        def then_full(*arguments: Any, **named: Any) -> Any:
            made = write(*arguments, **named)
            filling.__enter__()
            return made

        filling = full(disk)
        monkeypatch.setattr(commit, "write_rows", then_full)
        with pytest.raises(LakeUnusable, match=told.format("sids")):
            sids(lake, "c1", "b")
        filling.__exit__(None, None, None)
        monkeypatch.setattr(commit, "write_rows", write)
        assert lake.version("sids") == before
        assert list(Log(lake.table_files("sids"), "sids").faults()) == []
        sids(lake, "c1", "b")
        assert sorted(lake.read("sids")["item_id"].to_pylist()) == ["a0", "a1", "b0", "b1"]


def test_a_read_only_lake_can_be_read_and_says_in_a_line_that_it_cannot_be_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        lake = Lake(str(disk))
        sids(lake, "c1", "a")
        with read_only(disk):
            again = Lake(str(disk))
            assert again.rows("sids") == 2
            for write in (lambda: sids(again, "c1", "b"), lambda: again.open_or_create("drift")):
                with pytest.raises(
                    LakeUnusable, match=r"cannot write to .* \(Read-only file system\); give a lake that this user may"
                ):
                    write()


def test_in_an_object_store_nothing_is_synced(synced: list[str]) -> None:
    with durable.committing(Lake("s3://bucket/lake").table_files("sids")):
        pass
    assert synced == []


def test_a_signal_that_comes_once_a_file_has_its_name_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.replace

    def rename_and_stop(*paths: Any) -> None:
        rename(*paths)
        raise KeyboardInterrupt

    store = Files(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", rename_and_stop)
        with pytest.raises(KeyboardInterrupt):
            store.write("name", b"bytes")
    assert store.read("name") == b"bytes"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["name"]
