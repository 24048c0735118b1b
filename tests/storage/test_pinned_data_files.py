"""Files and blobs that a release pins are looked at before it is published."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake
from made_releases import WHO, candidate, model, publish
from test_data_files import flip, path_of, sid, vectors

from storage.commit import append
from storage.errors import BlobCorrupt, DataCorrupt, LakeError, LakeNotFound
from storage.files.store import sha256
from storage.lake import Lake
from storage.releases import integrity
from storage.releases.integrity import (
    Effort,
    adopt_all,
    check_pinned,
    checksums,
    first_fault,
    pinned_blobs,
    pinned_files,
)
from storage.releases.manifest import Manifest
from storage.releases.models import ModelCard, TrainedModel, record_model
from storage.releases.releases import published


def seen_by_check(monkeypatch: pytest.MonkeyPatch, at_most: int) -> list[str]:
    """Paths of the files that are hashed, in order, where there is time for so many: the clock counts looks at it."""
    looks, hashed = iter(range(10_000)), list[str]()
    monkeypatch.setattr(integrity.time, "monotonic", lambda: next(looks))
    check = integrity.check_file

    def noted(lake: Lake, pinned: integrity.Pinned) -> None:
        hashed.append(pinned.file.path)
        check(lake, pinned)

    monkeypatch.setattr(integrity, "check_file", noted)
    return hashed


def pinning(lake: Lake, count: int) -> tuple[Manifest, list[Path]]:
    for number in range(count):
        append(lake, "vectors", vectors(f"i{number}"), f"key-{number}", WHO)
    made = candidate(lake, "one", [], versions={"vectors": lake.version("vectors"), "items": -1})
    return made, [path_of(lake, pinned.file) for pinned in pinned_files(lake, made)]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_files_are_hashed_while_there_is_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    lake = Lake(str(tmp_path))
    made, paths = pinning(lake, 5)
    hashed = seen_by_check(monkeypatch, count)
    check_pinned(lake, made, None, WHO, Effort(count, 1 << 30))
    assert len(hashed) == count
    hashed.clear()
    check_pinned(lake, made, None, WHO)
    assert sorted(hashed) == sorted(path.name for path in paths)


@pytest.mark.parametrize(("files", "count"), [(0.1, 1), (1.5, 1), (2.5, 2), (9.0, 5)])
def test_files_are_hashed_until_enough_bytes_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: float, count: int
) -> None:
    lake = Lake(str(tmp_path))
    made, paths = pinning(lake, 5)
    hashed = seen_by_check(monkeypatch, 100)
    check_pinned(lake, made, None, WHO, Effort(100, int(files * paths[0].stat().st_size)))
    assert len(hashed) == count


def test_each_file_has_its_turn_as_releases_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(str(tmp_path))
    made, paths = pinning(lake, 4)
    hashed = seen_by_check(monkeypatch, 1)
    for number in range(40):
        check_pinned(lake, made.model_copy(update={"id": f"r-{number:06d}"}), None, WHO, Effort(1, 1 << 30))
    assert {*hashed} == {path.name for path in paths}
    again = list(hashed)
    hashed.clear()
    for number in range(40):
        check_pinned(lake, made.model_copy(update={"id": f"r-{number:06d}"}), None, WHO, Effort(1, 1 << 30))
    assert hashed == again, "the turn goes by the release"


@pytest.mark.parametrize(("seconds_off", "first"), [(-3, True), (3, True), (1, False), (-1, False)])
def test_a_file_that_was_touched_since_its_commit_is_hashed_before_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds_off: int, first: bool
) -> None:
    lake = Lake(str(tmp_path))
    made, paths = pinning(lake, 4)
    order = seen_by_check(monkeypatch, 1)
    check_pinned(lake, made, None, WHO)
    last = next(path for path in paths if path.name == order[-1])
    now = last.stat().st_mtime_ns + seconds_off * 1_000_000_000
    os.utime(last, ns=(now, now))
    order.clear()
    check_pinned(lake, made, None, WHO, Effort(1, 1 << 30))
    assert (order == [last.name]) == first


def test_a_file_that_is_gone_or_has_another_size_is_found_where_there_is_time_for_nothing(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    made, paths = pinning(lake, 3)
    data = paths[1].read_bytes()
    for damage, told in (
        (lambda: paths[1].write_bytes(data + b" "), "was changed after its commit"),
        (lambda: paths[1].write_bytes(data[:-1]), "was changed after its commit"),
        (paths[1].unlink, "is missing"),
    ):
        damage()
        with pytest.raises(DataCorrupt, match=f"{paths[1].name} {told}"):
            check_pinned(lake, made, None, WHO, Effort(-1, 1 << 30))
    paths[1].write_bytes(data)
    check_pinned(lake, made, None, WHO)
    flip(paths[1], 10)
    check_pinned(lake, made, None, WHO, Effort(-1, 1 << 30))
    with pytest.raises(DataCorrupt, match=f"{paths[1].name} was changed"):
        check_pinned(lake, made, None, WHO)


def test_a_file_of_another_program_is_taken_note_of_once_and_held_to_what_it_was_then(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "vectors", vectors("a"), "a", WHO)
    for item in "bc":
        write_deltalake(lake.path("vectors"), vectors(item), mode="append")
    made = candidate(lake, "one", [], versions={"vectors": lake.version("vectors")})
    assert [pinned.sha256 is None for pinned in pinned_files(lake, made)].count(True) == 2
    for _ in range(2):
        check_pinned(lake, made, None, WHO)
    noted = lake.read("checksums").to_pylist()
    theirs = {file.path: path_of(lake, file) for file in lake.data_files("vectors") if not file.sha256}
    assert {row["path"]: (row["table"], row["sha256"], row["size"], row["run"]) for row in noted} == {
        name: ("vectors", sha256(path.read_bytes()), path.stat().st_size, "test") for name, path in theirs.items()
    }
    assert len(noted) == 2
    assert datetime.now(UTC) - noted[0]["at"] < timedelta(minutes=9)
    flip(next(iter(theirs.values())), 10)
    with pytest.raises(DataCorrupt, match="was changed after its commit"):
        check_pinned(lake, made, None, WHO)


def test_all_files_of_other_programs_are_taken_note_of_once_pinned_ones_that_are_gone_from_the_table_too(
    tmp_path: Path,
) -> None:
    lake = Lake(str(tmp_path))
    append(lake, "vectors", vectors("a"), "a", WHO)
    write_deltalake(lake.path("vectors"), vectors("b"), mode="append")
    made = candidate(lake, "one", ["s"], versions={"vectors": lake.version("vectors")})
    write_deltalake(lake.path("vectors"), vectors("not pinned"), mode="append")
    (pinned,) = (each.file for each in pinned_files(lake, made) if each.sha256 is None)
    DeltaTable(lake.path("vectors")).optimize.compact()
    write_deltalake(lake.path("sids"), sid("b"), mode="append")
    newest = {
        (table, file.path) for table in ("vectors", "sids") for file in lake.data_files(table) if file.sha256 is None
    }
    assert ("vectors", pinned.path) not in newest
    assert adopt_all(lake, [made], WHO) == len(newest) + 1
    assert checksums(lake).keys() == newest | {("vectors", pinned.path)}
    for (table, path), digest in checksums(lake).items():
        assert digest == sha256((Path(lake.path(table)) / path).read_bytes())
    assert adopt_all(lake, [made], WHO) == 0
    assert len(checksums(lake)) == len(newest) + 1


def of_codebook(lake: Lake, made: Manifest) -> str:
    return made.codebook.blob


def of_fusion(lake: Lake, made: Manifest) -> str:
    return made.fusion_blob


def of_trie(lake: Lake, made: Manifest) -> str:
    return made.trie.sha256


def of_factors(lake: Lake, made: Manifest) -> str:
    return str(made.encoders["collaborative"].details["factors"])


def of_weights(lake: Lake, made: Manifest) -> str:
    return lake.blobs.put(b"weights")


def of_record(lake: Lake, made: Manifest) -> str:
    return lake.blobs.put(b"record")


@pytest.mark.parametrize("which", [of_codebook, of_fusion, of_trie, of_factors, of_weights, of_record])
@pytest.mark.parametrize("gone", [True, False])
def test_each_blob_that_a_release_and_its_model_name_is_looked_at_before_they_are_published(
    tmp_path: Path, which: Callable[[Lake, Manifest], str], gone: bool
) -> None:
    lake = Lake(str(tmp_path))
    blobs = {name: lake.blobs.put(name.encode()) for name in ("codebook", "fusion", "factors", "record")}
    encoders: dict[str, Any] = {
        "text": {"fingerprint": "f", "details": {"model": "m"}},
        "collaborative": {"fingerprint": "f", "details": {"factors": blobs["factors"]}},
    }
    book = {"id": "c1", "blob": blobs["codebook"], "sizes": [4], "vocabulary": "v-c1", "fitted_by": "test"}
    changes: dict[str, Any] = {"fusion_blob": blobs["fusion"], "encoders": encoders}
    made = candidate(lake, "one", ["a"], manifest={**changes, "codebook": book})
    assert len(list(pinned_blobs(made))) == 4
    card = ModelCard.model_validate({"record_blob": blobs["record"]})
    trained = record_model(lake, TrainedModel("m", made.id, "v-c1", lake.blobs.put(b"weights"), card), WHO)
    place = Path(lake.blobs.location(which(lake, made)))
    whole = place.read_bytes()
    if gone:
        place.unlink()
    else:
        place.write_bytes(b"other")
    with pytest.raises(LakeNotFound if gone else BlobCorrupt):
        publish(lake, made.id, WHO, trained)
    assert published(lake) is None
    place.write_bytes(whole)
    assert publish(lake, made.id, WHO, trained).model == trained


def test_a_model_without_a_record_of_its_training_needs_none(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    made = candidate(lake, "one", ["a"])
    trained = model(lake, "m", made.id, "v-c1")
    assert publish(lake, made.id, WHO).model == trained


def test_the_first_fault_is_what_a_check_raises_and_nothing_where_it_passes() -> None:
    def raising(error: Exception) -> None:
        raise error

    for error in (LakeError("of the lake"), ValueError("of a value"), OSError("of the machine")):
        assert first_fault(raising, error) == str(error)
    assert first_fault(lambda: None) is None
    with pytest.raises(KeyError):
        first_fault(raising, KeyError("a mistake of ours"))
