"""A backup has a release with all that it pins; what is restored from it is the same, or the damage is told."""

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from made_releases import TIME, WHO, candidate, model, publish

from storage.commit import append
from storage.erasure.erase import erase
from storage.erasure.rows import Subjects
from storage.errors import DataCorrupt, LakeError, LakeFormat, LakeNotFound, LakeUnusable, Retired
from storage.files.table_log import Log
from storage.files.trim import read_trim
from storage.format import BACKUP
from storage.lake import Lake
from storage.releases.completeness import lost_commits
from storage.releases.integrity import check_pinned
from storage.releases.publishing import held
from storage.releases.releases import published, published_assignments, read_release, releases
from storage.releases.standing import pin
from storage.retention import backup as backups
from storage.retention.backup import backup, restore
from storage.retention.collect import collect
from storage.retention.copying import copy_files
from storage.retention.policy import Policy
from storage.schemas import SEQUENCES, TABLES


def shop(tmp_path: Path) -> Lake:
    """Three releases, the second and third with a model that was trained on the first."""
    lake = Lake(str(tmp_path / "lake"))
    trained = None
    for number in range(3):
        made = candidate(lake, f"key-{number}", [f"s{each}" for each in range(number + 1)])
        trained = trained or model(lake, "m", made.id, "v-c1")
        publish(lake, made.id, WHO, trained)
    return lake


def whole(lake: Lake) -> None:
    assert list(lost_commits(lake)) == []
    for table in TABLES:
        if lake.exists(table):
            assert list(Log(lake.table_files(table), table).faults()) == []


@pytest.mark.parametrize(("name", "moved"), [("production", False), ("r-000002", True)])
def test_a_restored_lake_has_the_release_its_model_and_every_taken_sid_and_no_other_release(
    tmp_path: Path, name: str, moved: bool
) -> None:
    lake = shop(tmp_path)
    wanted = read_release(lake, name)
    made = backup(lake, str(tmp_path / "backup"), name, WHO)
    assert (made.release, made.model) == (wanted.id, "m-000001")
    there = Lake(str(tmp_path / "restored"))
    assert restore(str(tmp_path / "backup"), there) == made
    whole(there)
    assert {each.id for each in releases(there)} == {wanted.id, "r-000001"}, "its model was trained on the first"
    assert published(there) == published(Lake(str(tmp_path / "backup")))
    assert published(there).release == wanted.id  # type: ignore[union-attr]
    assert (held(there) is not None) == moved
    check_pinned(there, read_release(there, wanted.id), "m-000001", WHO)
    version = wanted.versions["sids"]
    assert there.read("sids", version).equals(lake.read("sids", version))
    assert published_assignments(there, "c1") == ["s0", "s1", "s2"]
    other = {"production": "r-000002", "r-000002": "r-000003"}[name]
    with pytest.raises(Retired, match=other):
        read_release(there, other)


def test_a_backup_takes_the_model_that_its_release_was_published_with_last(tmp_path: Path) -> None:
    lake = shop(tmp_path)
    publish(lake, "r-000003", WHO, model(lake, "another", "r-000003", "v-c1"))
    assert backup(lake, str(tmp_path / "backup"), "production", WHO).model == "m-000002"


def test_a_backup_has_the_sequences_of_its_releases_alone(tmp_path: Path) -> None:
    """Those of the release and of the one that its model was trained on."""
    lake = shop(tmp_path)
    row = {"bucket": 0, "user_id": "u", "event_id": "e", "event_time": TIME, "event_type": "click"}
    row |= {"item_id": "i", "codes": [0], "fresh": False}
    for number in (1, 2, 3):
        name = f"r-00000{number}-in-8"
        append(lake, "sequences", pa.Table.from_pylist([{"release": name, **row}], schema=SEQUENCES.schema), name, WHO)
    backup(lake, str(tmp_path / "backup"), "production", WHO)
    assert len(list((tmp_path / "backup" / "sequences").glob("part-*"))) == 2


def test_a_backup_of_a_lake_whose_logs_were_cut_says_what_was_cut_and_can_be_cut_again(tmp_path: Path) -> None:
    lake = shop(tmp_path)
    for number in range(3, 30):
        publish(lake, candidate(lake, f"key-{number}", [f"s{each}" for each in range(number + 1)]).id, WHO)
    collect(lake, Policy(1, timedelta()), WHO, remove=True)
    collect(lake, Policy(1, timedelta()), WHO, remove=True)
    cut = {table for table in TABLES if read_trim(lake.table_files(table)).before}
    assert "sids" in cut
    backup(lake, str(tmp_path / "backup"), "production", WHO)
    there = Lake(str(tmp_path / "restored"))
    restore(str(tmp_path / "backup"), there)
    whole(there)
    assert {table for table in TABLES if read_trim(there.table_files(table)).before} >= cut


def test_a_backup_beside_writers_holds_nothing_that_it_does_not_have_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night is published, and gc runs, between the copies of any two tables."""
    lake, copied = shop(tmp_path), backups._copy_table
    number = [3]

    def beside(*arguments: Any) -> int:
        version = copied(*arguments)
        segments = [f"s{each}" for each in range(number[0] + 1)]
        publish(lake, candidate(lake, f"key-{number[0]}", segments).id, WHO)
        number[0] += 1
        return version

    monkeypatch.setattr(backups, "_copy_table", beside)
    made = backup(Lake(lake.uri), str(tmp_path / "backup"), "production", WHO)
    assert number[0] > 6
    there = Lake(str(tmp_path / "restored"))
    restore(str(tmp_path / "backup"), there)
    whole(there)
    assert made.release == "r-000003"
    check_pinned(there, read_release(there, "production"), "m-000001", WHO)
    publish(there, candidate(there, "next", ["s0", "s1", "s2", "later"]).id, WHO)


def test_what_is_damaged_or_missing_in_a_backup_is_named_and_the_lake_is_not_usable(tmp_path: Path) -> None:
    backup(shop(tmp_path), str(tmp_path / "backup"), "production", WHO)
    for number, path in enumerate(sorted(p for p in (tmp_path / "backup").rglob("*") if p.is_file())[::5]):
        if path.name in (BACKUP, "lake.json"):
            continue
        copy = Path(shutil.copytree(tmp_path / "backup", tmp_path / f"copy-{number}"))
        damaged = copy / path.relative_to(tmp_path / "backup")
        if number % 2:
            damaged.unlink()
        else:
            damaged.write_bytes(b"\0" + damaged.read_bytes()[1:])
        there = Lake(str(tmp_path / f"restored-{number}"))
        with pytest.raises(DataCorrupt, match=f"{damaged.name} (was changed since the backup|is missing)"):
            restore(str(copy), there)
        with pytest.raises(LakeUnusable, match=r"`sidmill lake restore` did not end. Delete it"):
            read_release(Lake(there.uri), "production")


def test_a_restore_or_a_backup_that_was_killed_is_not_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = shop(tmp_path)
    backup(lake, str(tmp_path / "whole"), "production", WHO)

    def killed(source: Any, target: Any, paths: Any) -> Any:
        copy_files(source, target, sorted(paths)[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(backups, "copy_files", killed)
    with pytest.raises(KeyboardInterrupt):
        backup(lake, str(tmp_path / "backup"), "production", WHO)
    with pytest.raises(KeyboardInterrupt):
        restore(str(tmp_path / "whole"), Lake(str(tmp_path / "restored")))
    monkeypatch.undo()
    for place, verb in (("backup", "backup"), ("restored", "restore")):
        with pytest.raises(LakeUnusable, match=f"`sidmill lake {verb}` did not end"):
            read_release(Lake(str(tmp_path / place)), "production")
        with pytest.raises(LakeUnusable, match="is not empty, and a"):
            restore(str(tmp_path / "whole"), Lake(str(tmp_path / place)))
    with pytest.raises(LakeNotFound, match="there is no whole backup"):
        restore(str(tmp_path / "backup"), Lake(str(tmp_path / "other")))


def test_a_damaged_blob_or_data_file_is_not_carried_into_a_backup(tmp_path: Path) -> None:
    lake = shop(tmp_path)
    for number, path in enumerate(
        (
            Path(lake.blobs.location(read_release(lake, "production").trie.sha256)),
            next(Path(lake.path("sids")).glob("p*")),
        )
    ):
        data = path.read_bytes()
        path.write_bytes(b"\0" + data[1:])
        with pytest.raises(DataCorrupt, match=r"damaged\. Restore it|changed after its commit\. Restore it"):
            backup(lake, str(tmp_path / f"backup-{number}"), "production", WHO)
        path.write_bytes(data)


def test_nothing_is_written_to_a_backup_which_could_not_be_restored_then(tmp_path: Path) -> None:
    lake, copy = shop(tmp_path), Lake(str(tmp_path / "backup"))
    backup(lake, copy.uri, "production", WHO)
    copy = Lake(copy.uri)
    release = read_release(copy, "production").id
    for write in (
        lambda: collect(copy, Policy(grace=timedelta(0)), WHO, remove=True),
        lambda: erase(copy, Subjects(frozenset({"u1"}), frozenset()), "", WHO, 0),
        lambda: pin(copy, release, "the report", None, WHO),
    ):
        with pytest.raises(LakeUnusable, match=r"is a backup, .*sidmill lake restore"):
            write()
    collect(copy, Policy(), WHO, remove=False)
    restored = Lake(str(tmp_path / "restored"))
    restore(copy.uri, restored)
    pin(restored, release, "the report", None, WHO)


def test_what_cannot_be_backed_up_or_restored_is_refused(tmp_path: Path, old_lake: Lake) -> None:
    with pytest.raises(LakeFormat, match="lake migrate"):
        backup(old_lake, str(tmp_path / "backup"), "production", WHO)
    lake = shop(tmp_path / "new")
    with pytest.raises(LakeError, match="is not empty, and a backup needs an empty place"):
        backup(lake, lake.uri, "production", WHO)
    with pytest.raises(LakeError, match="lie one in the other, so they would be lost together"):
        backup(lake, f"{lake.uri}/backups/monday", "production", WHO)
    assert not (tmp_path / "new" / "lake" / "backups").exists()
    backup(lake, str(tmp_path / "backup"), "production", WHO)
    record = tmp_path / "backup" / BACKUP
    for text in ("{", json.dumps({"files": []})):
        record.write_text(text)
        with pytest.raises(DataCorrupt, match="is damaged, so the backup cannot be verified"):
            restore(str(tmp_path / "backup"), Lake(str(tmp_path / "restored")))
