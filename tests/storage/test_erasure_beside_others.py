"""An erasure beside joins, `lake gc` and backups: no row comes twice, and no file that a version needs goes."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from made_releases import WHO, candidate, publish
from test_bounds_of_deleted_files import GONE, Killed, appended

from bench.faults.erased_ids import files_holding
from storage import commit
from storage.erasure import erase as erasing
from storage.erasure import tables as cleaning
from storage.erasure.erase import erase
from storage.erasure.rows import Subjects
from storage.errors import ErasedMeanwhile, LeaseLost, LeaseTaken
from storage.files import rewritten_log
from storage.files.store import Files
from storage.files.table_log import Log
from storage.lake import Lake
from storage.releases.integrity import check_pinned
from storage.releases.releases import read_release, releases
from storage.retention import backup as backups
from storage.retention import collect as collecting
from storage.retention import small_files
from storage.retention.backup import backup
from storage.retention.collect import collect
from storage.retention.policy import Policy
from storage.retention.small_files import join_small
from storage.runs import lease
from storage.schemas import PROPERTIES

SUBJECTS = Subjects(frozenset(), frozenset({GONE}))
POLICY = Policy(keep=1, grace=timedelta(0))


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake with a release, whose tables have a checkpoint every third commit."""
    monkeypatch.setitem(PROPERTIES, "delta.checkpointInterval", "3")
    monkeypatch.setattr(rewritten_log, "LOADING_S", 0)
    monkeypatch.setattr(commit, "MAX_FILES", 3)
    monkeypatch.setattr(small_files, "MAX_SMALL_FILES", 3)
    monkeypatch.setattr(collecting, "WAIT_S", 0)
    monkeypatch.setattr(lease, "LOOK_S", 0)
    made = Lake(str(tmp_path / "lake"))
    for number in range(8):
        appended(made, number, GONE if number in (1, 5) else f"i{number}")
        if number == 4:
            join_small(made, "items", WHO)
    publish(made, candidate(made, "first", ["a"], versions={"items": made.version("items")}).id, WHO)
    return made


def items(lake: Lake) -> list[str]:
    return sorted(Lake(lake.uri).read("items")["item_id"].to_pylist())


def require_whole(lake: Lake) -> None:
    assert files_holding(lake, [GONE], set())[0] == []
    assert items(lake) == [f"i{number}" for number in (0, 2, 3, 4, 6, 7)]
    assert list(Log(lake.table_files("items"), "items").faults()) == []
    check_pinned(Lake(lake.uri), read_release(Lake(lake.uri), "production"), None, WHO)


def first(called: Callable[..., object], before: Callable[[], object]) -> Callable[..., object]:
    """Return a function that does something else before its first call."""
    left = [before]

    def call(*arguments: object, **options: object) -> object:
        if left:
            left.pop()()
        return called(*arguments, **options)

    return call


@pytest.mark.parametrize("later", [0, 1, 2])
def test_a_join_that_commits_while_successors_take_their_place_does_not_double_rows(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    """It has read the former files, and its entry, or a checkpoint soon after, removes them and not the successors."""
    for number in range(later):  # so that the checkpoint is of the join, or of the mark of the erasure after it
        appended(lake, 10 + number, GONE)

    def die() -> bool:
        raise Killed

    committed = commit._commit

    def replaced() -> None:
        """All of the log is rewritten before the join commits."""
        with monkeypatch.context() as inner:
            inner.setattr(commit, "_commit", committed)
            cleaner = cleaning.TableCleaner(Lake(lake.uri), "items", SUBJECTS)
            inner.setattr(cleaning, "mark", lambda *_: die())
            with suppress(Killed):
                cleaner.clean(WHO)

    with monkeypatch.context() as inner:
        inner.setattr(commit, "_commit", first(committed, replaced))
        assert join_small(Lake(lake.uri), "items", WHO) > 0
    erase(Lake(lake.uri), SUBJECTS, "", WHO, 0)
    require_whole(lake)
    appended(lake, 21, "later")
    assert items(lake).count("i0") == 1


def test_gc_removes_nothing_until_a_killed_erasure_has_gone_on(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries name successors then, and a checkpoint before them the former files, or the other way round."""
    refused = 0
    for number in range(7, 31, 4):
        copy = str(shutil.copytree(lake.uri, tmp_path / f"copy-{number}"))
        with monkeypatch.context() as inner, suppress(Killed):
            inner.setattr(Files, "write", dying_at(Files.write, number))
            erase(Lake(copy), SUBJECTS, "", WHO, 0)
        try:
            collect(Lake(copy), POLICY, WHO, remove=True)
        except ErasedMeanwhile:
            refused += 1
        erase(Lake(copy), SUBJECTS, "", WHO, 0)
        require_whole(Lake(copy))
    assert refused > 2


def dying_at(write: Callable[..., None], number: int) -> Callable[..., None]:
    calls = iter(range(1, 10000))

    def write_or_die(files: Files, *rest: object) -> None:
        if "leases" not in files.uri and next(calls) == number:
            raise Killed
        write(files, *rest)

    return write_or_die


def test_gc_and_an_erasure_do_not_change_logs_at_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def also_gc() -> None:
        with pytest.raises(LeaseTaken, match="did not end in 0 minutes"):
            collect(Lake(lake.uri), POLICY, WHO, remove=True)

    def also_erase() -> None:
        with pytest.raises(LeaseTaken, match="Nothing was removed"):
            erase(Lake(lake.uri), SUBJECTS, "", WHO, 0)

    with monkeypatch.context() as inner:
        inner.setattr(collecting, "_remove", first(collecting._remove, also_erase))
        collect(Lake(lake.uri), POLICY, WHO, remove=True)
    with monkeypatch.context() as inner:
        inner.setattr(cleaning, "replace_in_log", first(cleaning.replace_in_log, also_gc))
        erase(Lake(lake.uri), SUBJECTS, "", WHO, 0)
    require_whole(lake)


def take_over(lake: Lake) -> None:
    """An erasure that takes the place of a command which gives no sign of life."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "LOST_S", -1)
        erase(Lake(lake.uri), SUBJECTS, "", WHO, 5)


def test_gc_that_stood_still_while_an_erasure_took_its_place_writes_no_hash_of_before(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The erasure rewrites checkpoints, and by their former hashes the table would count as damaged."""

    with monkeypatch.context() as inner:
        inner.setattr(collecting, "_remove", first(collecting._remove, partial(take_over, lake)))
        with pytest.raises(LeaseLost, match=r"gave no sign of life.*Run the same command again"):
            collect(Lake(lake.uri), POLICY, WHO, remove=True)
    require_whole(lake)
    collect(Lake(lake.uri), POLICY, WHO, remove=True)
    require_whole(lake)


def test_an_erasure_that_stood_still_changes_nothing_more_once_another_took_its_place(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as inner:
        inner.setattr(erasing, "begin_erasure", first(erasing.begin_erasure, partial(take_over, lake)))
        with pytest.raises(LeaseLost):
            erase(Lake(lake.uri), SUBJECTS, "", WHO, 0)
    erase(Lake(lake.uri), SUBJECTS, "", WHO, 0)
    require_whole(lake)


def test_a_backup_beside_an_erasure_is_refused(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entries could name other files than it has, and it would hold what was erased."""
    copied = backups._copy_table
    with monkeypatch.context() as inner:
        inner.setattr(backups, "_copy_table", first(copied, lambda: erase(Lake(lake.uri), SUBJECTS, "", WHO, 0)))
        with pytest.raises(ErasedMeanwhile, match="--resume"):
            backup(Lake(lake.uri), str(tmp_path / "early"), "production", WHO)
    backup(Lake(lake.uri), str(tmp_path / "later"), "production", WHO)
    require_whole(Lake(str(tmp_path / "later")))


def test_a_release_that_is_made_during_a_backup_is_retired_in_it(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is copied, and its blobs are not."""
    meanwhile = first(backups._copy_table, lambda: candidate(Lake(lake.uri), "second", ["a", "b"]))
    monkeypatch.setattr(backups, "_copy_table", meanwhile)
    backup(Lake(lake.uri), str(tmp_path / "backup"), "production", WHO)
    assert [each.id for each in releases(Lake(str(tmp_path / "backup")))] == ["r-000001"]
