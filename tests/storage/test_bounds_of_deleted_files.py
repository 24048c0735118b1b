"""An erased item is no longer a bound of files that `lake gc` deleted and that the log still names."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bench.faults.erased_ids import files_holding
from storage.commit import Provenance, append
from storage.erasure.rows import Subjects
from storage.erasure.tables import TableCleaner
from storage.files import rewritten_log
from storage.files.store import Files
from storage.files.table_log import Log
from storage.lake import Lake
from storage.retention.collect import collect
from storage.retention.policy import Policy
from storage.retention.small_files import join_small
from storage.schemas import ITEMS

WHO = Provenance("test", "")
GONE = "gone-item"
COMMITS = (36, 39)
"""Items that are appended one by one. The joined files are named by an entry alone, or by a checkpoint too."""


class Killed(BaseException):
    """Stands for a kill."""


def appended(lake: Lake, number: int, name: str) -> None:
    row: dict[str, Any] = {
        "item_id": name,
        "revision": 0,
        "attributes": "{}",
        "text_hash": f"{number}",
        "images": [],
        "deleted": False,
        "arrived_at": datetime(2026, 1, 1, tzinfo=UTC),
        "source": "items.csv",
        "source_row": number,
    }
    rows = pa.Table.from_pylist([row], schema=ITEMS.schema)
    append(lake, "items", rows, f"item {number}", WHO)


def lake_of(folder: Path, commits: int) -> Lake:
    """A lake whose small files were joined, and deleted since."""
    lake = Lake(str(folder))
    for number in range(commits):
        appended(lake, number, GONE if number in (commits // 2, commits - 1) else f"i{number}")
        if number == commits - 3:
            join_small(lake, "items", WHO)
        if number == commits - 2:
            collect(lake, Policy(keep=1, grace=timedelta(0)), WHO, remove=True)
    return lake


def erase(lake: Lake) -> None:
    cleaner = TableCleaner(lake, "items", Subjects(frozenset(), frozenset({GONE})))
    cleaner.clean(WHO)
    cleaner.remove(list(cleaner.held()))


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewritten_log, "LOADING_S", 0)


@pytest.mark.parametrize("commits", COMMITS)
def test_no_file_holds_the_item_and_the_table_stays_as_it_was(tmp_path: Path, commits: int) -> None:
    lake = lake_of(tmp_path / "lake", commits)
    assert any("_delta_log" in path for path in files_holding(lake, [GONE], set())[0])
    before = set(lake.read("items")["item_id"].to_pylist())
    erase(lake)
    assert files_holding(lake, [GONE], set())[0] == []
    assert set(Lake(lake.uri).read("items")["item_id"].to_pylist()) == before - {GONE}
    assert list(Log(lake.table_files("items"), "items").faults()) == []
    appended(Lake(lake.uri), commits, "later")
    assert "later" in Lake(lake.uri).read("items")["item_id"].to_pylist()


@pytest.mark.parametrize("commits", COMMITS)
def test_a_kill_before_any_write_leaves_what_the_next_try_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    made = lake_of(tmp_path / "lake", commits)
    write, delete, killed_at, done = Files.write, Files.delete, 0, False
    while not done:
        killed_at, calls = killed_at + 1, iter(range(1, 1000))
        lake = Lake(str(shutil.copytree(made.uri, tmp_path / f"copy-{killed_at}")))

        def write_or_die(files: Files, *rest: Any, number: int = killed_at, left: Any = calls) -> None:
            if next(left) == number:
                raise Killed
            write(files, *rest)

        def delete_or_die(files: Files, *rest: Any, number: int = killed_at, left: Any = calls) -> None:
            if next(left) == number:
                raise Killed
            delete(files, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(Files, "write", write_or_die)
            patched.setattr(Files, "delete", delete_or_die)
            try:
                erase(lake)
                done = True
            except Killed:
                pass
        erase(Lake(lake.uri))
        assert files_holding(lake, [GONE], set())[0] == [], killed_at
    assert killed_at > 5
