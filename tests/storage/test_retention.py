"""`lake gc`: what stays can be read in full, what goes is told and is gone, beside runs and readers."""

import json
import os
import shutil
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from made_releases import TIME, WHO, candidate, model, publish, sids

from storage.commit import append, generation
from storage.errors import DataCorrupt, LakeNotFound, PublishRefused, Retired
from storage.files.store import WRITING
from storage.files.table_log import Log
from storage.lake import Lake
from storage.releases.integrity import check_pinned
from storage.releases.models import find_model_by_key, models, read_model
from storage.releases.pointers import read_pointer
from storage.releases.publishing import rollback
from storage.releases.releases import find_release_by_key, published_assignments, read_release, releases
from storage.releases.standing import pin, read_standing, retirements, unpin
from storage.retention import collect as collecting
from storage.retention.collect import Collected, collect
from storage.retention.garbage import SMALL_FILES
from storage.retention.policy import Policy
from storage.retention.tables import Garbage
from storage.runs.record import RunRecord
from storage.schemas import CHECKSUMS, ITEMS, POINTERS, PROPERTIES, SEQUENCES, VECTORS

DAY = timedelta(days=1)


def gc(lake: Lake, keep: int = 1, grace: timedelta = DAY, days: float = 0, remove: bool = True) -> Collected:
    """Collect as if some days had passed."""
    return collect(lake, Policy(keep, grace), WHO, remove, datetime.now(UTC) + days * DAY)


def published(lake: Lake, count: int, **changes: Any) -> list[str]:
    """Publish releases, each of which adds a segment."""
    made = []
    for number in range(len(releases(lake)), len(releases(lake)) + count):
        segments = [f"s{each}" for each in range(number + 1)]
        made.append(candidate(lake, f"key-{number}", segments, **changes).id)
        publish(lake, made[-1], WHO)
    return made


def paths(lake: Lake) -> set[str]:
    return {str(path.relative_to(lake.uri)) for path in Path(lake.uri).rglob("*") if path.is_file()}


def kinds(found: Collected) -> set[str]:
    return {each.kind for each in found.garbage}


def test_releases_beyond_the_newest_are_retired_and_after_the_grace_period_their_files_are_gone(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    made = published(lake, 4)
    first = gc(lake, keep=2)
    assert first.retired == tuple(made[:2])
    assert set(first.kept.releases) == set(made[2:])
    assert first.leaving.keys() == set(made[:2])
    with pytest.raises(Retired, match=rf"{made[0]} was retired on \d{{4}}-\d\d-\d\d .*`sidmill release list`.*restore"):
        read_release(lake, made[0])
    later = gc(lake, keep=2, days=2)
    assert "blobs of retired releases and models: trie" in kinds(later)
    assert not {each.path for each in later.garbage} & paths(lake)
    assert [each.id for each in releases(lake)] == made[2:]
    assert published_assignments(lake, "c1") == ["s0", "s1", "s2", "s3"], "their SIDs stay taken"
    for release in made[2:]:
        check_pinned(lake, read_release(lake, release), None, WHO)
    again = gc(lake, keep=2, days=2)
    assert (again.retired, again.garbage, again.leaving) == ((), (), {})


def test_without_leave_nothing_changes_and_what_is_told_is_what_then_goes(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    published(lake, 4)
    gc(lake, keep=3)
    lake.blobs.put(b"of a run that crashed")
    before = paths(lake)
    told = gc(lake, keep=2, days=3, remove=False)
    assert paths(lake) == before
    assert read_standing(lake).retired.keys() == {"r-000001"}
    done = gc(lake, keep=2, days=3)
    assert done.retired == told.retired == ("r-000002",)
    assert {each.path for each in told.garbage} <= {each.path for each in done.garbage}
    assert before - paths(lake) == {each.path for each in done.garbage} & before


def test_what_goes_after_the_grace_period_is_told_as_long_as_something_is_leaving(tmp_path: Path) -> None:
    """Also where nothing is gone yet; and nothing is told where nothing was retired."""
    lake = Lake(str(tmp_path))
    published(lake, 4)
    assert gc(lake, keep=4, days=2).later == ()
    first = gc(lake, keep=2, days=2)
    assert first.leaving
    told = {each.path for each in first.later}
    assert len(told) >= 2, "the tries of two releases"
    gone = gc(lake, keep=2, days=4)
    assert {each.path for each in gone.garbage} >= told
    assert gone.later == ()


def test_a_reader_that_holds_an_old_release_reads_it_until_the_grace_period_is_over(tmp_path: Path) -> None:
    lake, reader = Lake(str(tmp_path)), Lake(str(tmp_path))
    held = read_release(lake, published(lake, 1)[0])
    rows = lake.read("sids", held.versions["sids"]).num_rows
    for number in range(45):
        sids(lake, "c2", f"segment-{number}")
    published(lake, 2)
    for days in (0, 0.5):
        gc(lake, days=days)
        check_pinned(reader, held, None, WHO)
        assert reader.read("sids", held.versions["sids"]).num_rows == rows
        assert reader.blobs.get(held.trie.sha256)
    gc(lake, days=2)
    with pytest.raises(LakeNotFound, match="is missing"):
        reader.blobs.get(held.trie.sha256)
    with pytest.raises(LakeNotFound, match=r"version \d+ of table 'sids' .* is gone: `sidmill lake gc` retired"):
        reader.read("sids", held.versions["sids"])


def test_pins_stay_with_all_they_pin_until_they_are_lifted_or_over(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two, *_ = published(lake, 5)
    pin(lake, one, "the report", None, WHO)
    pin(lake, two, "the audit", datetime.now(UTC) + 5 * DAY, WHO)
    kept = gc(lake, days=2).kept.releases
    assert kept[one].endswith(": the report")
    assert "until" in kept[two]
    for release in (one, two):
        check_pinned(lake, read_release(lake, release), None, WHO)
    assert two in gc(lake, days=6).retired
    assert unpin(lake, one, WHO)
    assert not unpin(lake, one, WHO)
    assert gc(lake, days=6).retired == (one,)
    with pytest.raises(Retired, match=one):
        pin(lake, one, "too late", None, WHO)


@pytest.mark.parametrize(
    ("reason", "days", "told"), [(" ", None, "a pin needs a reason"), ("r", -1, "is past: give a time to come")]
)
def test_a_pin_without_reason_or_for_the_past_is_refused(
    tmp_path: Path, reason: str, days: int | None, told: str
) -> None:
    lake = Lake(str(tmp_path))
    (one,) = published(lake, 1)
    with pytest.raises(ValueError, match=told):
        pin(lake, one, reason, None if days is None else datetime.now(UTC) + days * DAY, WHO)
    with pytest.raises(LakeNotFound, match="not the id of a release"):
        pin(lake, "production", "r", None, WHO)


def test_a_release_that_is_retired_while_it_is_published_or_rolled_back_to_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from storage.releases import publishing

    lake = Lake(str(tmp_path))
    one, two = published(lake, 2)
    three = candidate(lake, "three", ["s0", "s1"]).id

    def retiring(*arguments: Any) -> None:
        check_pinned(*arguments)
        rows = retirements([one, three], datetime.now(UTC), "note", WHO)
        append(lake, "pointers", rows, "retire", WHO)

    monkeypatch.setattr(publishing, "check_pinned", retiring)
    for move in (lambda: publish(lake, three, WHO), lambda: rollback(lake, WHO, to=one)):
        with pytest.raises(Retired):
            move()
    assert read_pointer(lake, "production").value["release"] == two
    with pytest.raises(PublishRefused, match="none of them stays"):
        rollback(lake, WHO)


def test_a_running_run_keeps_what_it_names_and_all_that_was_written_since_it_began(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    old, *_, newest = published(lake, 4)
    orphan = lake.blobs.put(b"not named yet")
    record = RunRecord(lake, "nightly-1", "nightly", "r", {"parent": old})
    record.begin()
    early = lake.blobs.put(b"not named yet either")
    for digest, age in ((orphan, 20), (early, 5)):
        _age(lake, digest, age)
    _date_runs(lake, 10)
    found = gc(lake)
    assert found.running == ("nightly-1",)
    assert found.kept.releases[old] == "nightly-1 is running"
    assert found.retired == (), "production pointed to them since the run began"
    assert not (tmp_path / "blobs" / orphan[:2] / orphan).exists()
    assert lake.blobs.get(early)
    record.end("failed", {})
    done = gc(lake, days=2)
    assert done.running == ()
    assert old in done.retired
    assert [each.id for each in releases(lake)] == [newest]


def _age(lake: Lake, digest: str, days: float) -> None:
    path = Path(lake.blobs.location(digest))
    os.utime(path, (path.stat().st_mtime - days * 86400,) * 2)


def _date_runs(lake: Lake, days: float) -> None:
    """Record the start of the run again, some days ago."""
    from storage.schemas import RUNS

    (row,) = lake.read("runs").to_pylist()
    detail = {**json.loads(row["detail"]), "host": socket.gethostname(), "pid": os.getpid()}
    earlier = {**row, "detail": json.dumps(detail), "at": row["at"] - days * DAY}
    append(lake, "runs", pa.Table.from_pylist([earlier], schema=RUNS.schema), "earlier", WHO)


def test_a_run_that_recorded_nothing_for_long_keeps_nothing(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    published(lake, 3)
    record = RunRecord(lake, "nightly-1", "nightly", "r", {"parent": "r-000001"})
    record.begin()
    assert gc(lake, days=20, remove=False).running == ("nightly-1",)
    assert gc(lake, days=40, remove=False).running == ()


def test_a_model_keeps_the_release_it_was_trained_on_and_that_one_no_further_models(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    (zero,) = published(lake, 1)
    before = model(lake, "k0", zero, "v-c1")
    publish(lake, zero, WHO, before)
    (one,) = published(lake, 1)
    served = model(lake, "k1", one, "v-c1")
    publish(lake, one, WHO, served)
    made = published(lake, 3)
    never = model(lake, "k2", made[0], "v-c1")
    _weights_of_its_own(lake, never)
    found = gc(lake, days=1.5)
    assert found.kept.releases == {made[-1]: "production points to it", one: f"{served} was trained on it"}
    assert found.kept.models == {served: "production points to it"}
    assert {before, never} <= set(found.retired)
    with pytest.raises(Retired, match=f"{never} was retired on .*a model that stays"):
        read_model(lake, never)
    assert [each.id for each in models(lake)] == [served]
    gc(lake, days=4)
    check_pinned(lake, read_release(lake, made[-1]), served, WHO)


def _weights_of_its_own(lake: Lake, name: str) -> None:
    assert read_model(lake, name).weights == lake.blobs.put(b"weights"), "all models here share their weights"


def test_what_was_retired_is_made_again_under_its_key(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    old = candidate(lake, "same inputs", ["s0"]).id
    gone = model(lake, "same training", old, "v-c1")
    published(lake, 3)
    assert {old, gone} <= set(gc(lake, days=1.5).retired)
    assert find_release_by_key(lake, "same inputs") is None
    assert find_model_by_key(lake, "same training") is None
    again = candidate(lake, "same inputs", ["s0"])
    assert again.id == "r-000005"
    assert candidate(lake, "same inputs", ["s0"]).id == again.id
    assert model(lake, "same training", again.id, "v-c1") == "m-000002"
    check_pinned(lake, again, "m-000002", WHO)


def test_files_of_crashed_writers_go_when_they_are_old_and_are_not_written_again(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    (release,) = published(lake, 1)
    key = read_release(lake, release).codebook.fitted_by
    orphan, again = lake.blobs.put(b"orphan"), lake.blobs.put(b"written again")
    sids, log = tmp_path / "sids", tmp_path / "sids" / "_delta_log"
    data = next(sids.glob("part-*.parquet"))
    left = [
        *(sids / f"{WRITING}1", sids / f"{data.name}#1", log / "00000000000000000009.json#2"),
        sids / f"part-{'0' * 64}-{'0' * 16}-{'0' * 16}.parquet",
        tmp_path / "blobs" / orphan[:2] / f"{WRITING}2",
        *(tmp_path / folder / f"{WRITING}3" for folder in ("", *SMALL_FILES, "logs", f"tensorboard/{key}")),
        tmp_path / "blobs" / orphan[:2] / orphan,
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
    foreign = sids / "notes.txt"
    for path in (*left[:-1], foreign):
        path.write_bytes(b"x")
    assert gc(lake).garbage == (), "all of it is young"
    for path in (*left, foreign, tmp_path / "blobs" / again[:2] / again):
        os.utime(path, (10**9, 10**9))  # in 2001
    lake.blobs.put(b"written again")
    named = sorted(str(path.relative_to(tmp_path)) for path in left)
    assert sorted(each.path for each in gc(lake, remove=False).garbage) == named, "each is told once"
    assert sorted(each.path for each in gc(lake).garbage) == named
    assert not any(path.exists() for path in left)
    assert foreign.exists(), "what no sidmill wrote stays"
    assert lake.blobs.get(again)


def test_what_nothing_named_and_is_written_anew_after_it_was_listed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path))
    published(lake, 4)
    orphan = lake.blobs.put(b"orphan")
    sids = tmp_path / "sids"
    unnamed = [
        sids / f"{WRITING}1",
        sids / f"part-{'0' * 64}-{'0' * 16}-{'0' * 16}.parquet",
        tmp_path / "blobs" / orphan[:2] / orphan,
    ]
    for path in unnamed[:2]:
        path.write_bytes(b"x")
    remove, later = collecting._remove, (datetime.now(UTC) + 9 * DAY).timestamp()

    def touched(*arguments: Any) -> Any:
        for path in tmp_path.rglob("*"):
            os.utime(path, (later, later))
        return remove(*arguments)

    gc(lake)
    monkeypatch.setattr(collecting, "_remove", touched)
    found = gc(lake, days=3)
    assert all(path.exists() for path in unnamed)
    assert not {each.path for each in found.garbage} & paths(lake)


def test_pictures_of_all_revisions_of_items_stay_and_logs_of_failed_runs_go_when_they_are_old(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    published(lake, 1)
    first, second, nobodys = (lake.blobs.put(name) for name in (b"first", b"second", b"nobody's"))
    revision = {"item_id": "a", "title": "t", "attributes": "{}", "text_hash": "h", "deleted": False}
    rows = [
        {**revision, "revision": number, "images": images, "arrived_at": TIME, "source": "s", "source_row": number}
        for number, images in enumerate([[first, second], [second], []])
    ]
    append(lake, "items", pa.Table.from_pylist(rows, schema=ITEMS.schema), "items", WHO)
    logs = [tmp_path / "logs" / f"nightly-{age}.log" for age in ("old", "young")]
    logs[0].parent.mkdir()
    for path in logs:
        path.write_text("Traceback")
    for path in (logs[0], *(tmp_path / "blobs").rglob("*")):
        os.utime(path, (10**9, 10**9))  # in 2001
    assert {each.path: each.kind for each in gc(lake).garbage} == {
        f"blobs/{nobodys[:2]}/{nobodys}": "blobs that nothing names",
        "logs/nightly-old.log": "logs of failed runs",
    }
    assert (lake.blobs.get(first), lake.blobs.get(second), logs[1].exists()) == (b"first", b"second", True)


def test_entries_of_a_log_are_told_from_what_nothing_names() -> None:
    entry, draft, data = "sids/_delta_log/00000000000000000001.json", "sids/_delta_log/00.json#1", "sids/part-1.parquet"
    assert Garbage("", entry, 1).in_log is True
    assert Garbage("", draft, 1, unnamed=True).in_log is False
    assert Garbage("", data, 1).in_log is False


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_a_blob_that_cannot_be_given_the_present_time_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    """It is another user's, or was removed since it was hashed."""
    from storage.files import store

    lake = Lake(str(tmp_path))
    published(lake, 1)
    digest = lake.blobs.put(b"blob")
    _age(lake, digest, 9)

    def refused(path: Path) -> None:
        path.unlink()
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "utime", refused)
        lake.blobs.put(b"blob")
    assert lake.blobs.get(digest) == b"blob"
    assert gc(lake).garbage == ()


def test_a_log_is_left_with_what_the_staying_versions_and_the_newest_ones_open_from(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    versions = []
    for number in range(70):
        rows = [
            {"item_id": f"i{number}", "modality": "t", "content_hash": "h", "fingerprint": "f", "vector": [number / 2]}
        ]
        append(lake, "vectors", pa.Table.from_pylist(rows, schema=VECTORS.schema), f"v{number}", WHO)
        if number in (5, 33):
            versions.append(lake.version("vectors"))
            pin(lake, candidate(lake, f"k{number}", ["s"], versions={"vectors": versions[-1]}).id, "why", None, WHO)
    publish(lake, candidate(lake, "newest", ["s"], versions={"vectors": lake.version("vectors")}).id, WHO)
    before = len(list((tmp_path / "vectors" / "_delta_log").iterdir()))
    gc(lake, days=2)
    log = Log(lake.table_files("vectors"), "vectors")
    assert len(log.entries) < before - 20
    assert list(log.faults()) == []
    assert [lake.read("vectors", version).num_rows for version in versions] == [6, 34]
    assert lake.read("vectors").num_rows == 70
    assert not append(lake, "vectors", pa.Table.from_pylist(rows, schema=VECTORS.schema), "v3", WHO).written
    for between in (versions[0] + 1, 12, versions[1] + 1, 45):
        with pytest.raises(LakeNotFound, match="is gone"):
            lake.read("vectors", between)
    for number in range(70, 95):
        append(lake, "vectors", pa.Table.from_pylist(rows, schema=VECTORS.schema), f"v{number}", WHO)
    gc(lake, days=4)
    assert list(Log(lake.table_files("vectors"), "vectors").faults()) == []
    assert lake.read("vectors", versions[1]).num_rows == 34
    _damages_of_a_trimmed_log_are_told(lake, versions[1])


def test_a_release_that_pins_a_table_without_rows_keeps_its_first_version(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.open_or_create("vectors")
    first = candidate(lake, "first", ["s"], versions={"vectors": 0})
    pin(lake, first.id, "why", None, WHO)
    for number in range(45):
        append(lake, "vectors", vector("f"), f"v{number}", WHO)
    publish(lake, candidate(lake, "newest", ["s"], versions={"vectors": lake.version("vectors")}).id, WHO)
    gc(lake, days=2)
    assert lake.read("vectors", 0).num_rows == 0
    with pytest.raises(LakeNotFound, match="is gone"):
        lake.read("vectors", 25)


def _damages_of_a_trimmed_log_are_told(lake: Lake, version: int) -> None:
    folder = Path(lake.path("vectors"))
    base = Log(lake.table_files("vectors"), "vectors").base(version)
    checkpoint = folder / "_delta_log" / f"{base:020d}.checkpoint.parquet"
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    for change, told in (
        (lambda: None, "checkpoint.parquet was changed; restore"),
        (lambda: checkpoint.unlink(), "checkpoint.parquet is missing; restore"),
        (lambda: (folder / "_trimmed.json").unlink(), "lacks the entries"),
        (lambda: (folder / "_trimmed.json").write_text("{"), "_trimmed.json is damaged"),
    ):
        change()
        with pytest.raises(DataCorrupt, match=told):
            gc(lake)


@pytest.mark.parametrize("seed", range(2))
def test_a_removal_that_was_killed_in_the_middle_of_a_log_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Files of a log are removed in the order in which a disk lists them, so a kill leaves any of them."""
    monkeypatch.setitem(PROPERTIES, "delta.checkpointInterval", "3")
    lake, chance = Lake(str(tmp_path)), Random(seed)
    made = published(lake, 7)
    delete, left = collecting._delete, []

    def some(lake: Lake, garbage: Garbage) -> None:
        if garbage.in_log and chance.random() < 0.5:
            left.append(garbage.path)
        else:
            delete(lake, garbage)

    monkeypatch.setattr(collecting, "_delete", some)
    gc(lake, grace=timedelta(), days=1)
    assert len(left) > 4
    check_pinned(lake, read_release(lake, made[-1]), None, WHO)
    monkeypatch.setattr(collecting, "_delete", delete)
    again = gc(lake, grace=timedelta(), days=1)
    assert {each.path for each in again.garbage if each.in_log} == set(left)
    assert not set(left) & paths(lake)
    check_pinned(lake, read_release(lake, made[-1]), None, WHO)


def test_sequences_of_retired_releases_and_trainings_that_nobody_goes_on_with_go(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two = published(lake, 2)
    row = {"bucket": 0, "user_id": "u", "event_id": "e", "event_time": TIME, "event_type": "t", "impression": None,
           "session_id": None, "item_id": "i", "codes": [1], "fresh": True}  # fmt: skip
    for name in (f"{one}-in-8", f"{one}-in-8-since-m-000001", f"{two}-in-8"):
        append(lake, "sequences", pa.Table.from_pylist([{"release": name, **row}], schema=SEQUENCES.schema), name, WHO)
    for name, days in (("old", 9), ("young", 0)):
        for file in ("a", "b"):
            path = tmp_path / "training" / name / "checkpoint" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
            os.utime(path, (path.stat().st_mtime - days * 86400,) * 2)
    record = RunRecord(lake, "train-1", "train", "r", {"release": two})
    record.begin()
    gc(lake)
    assert (tmp_path / "training" / "old").exists(), "a training is running, and may go on from there"
    record.end("finished", {})
    assert "trainings that were abandoned" in kinds(gc(lake))
    assert [path.name for path in (tmp_path / "training").iterdir()] == ["young"]
    told = gc(lake, days=2, remove=False)
    assert not told.leaving, "the grace period of the first release is over"
    assert "sequences of retired releases" in {each.kind for each in told.later}
    gc(lake, days=2)
    assert set(lake.read("sequences")["release"].to_pylist()) == {f"{two}-in-8"}
    gc(lake, days=4)
    assert len(list((tmp_path / "sequences").glob("part-*"))) == 1


def vector(fusion: str) -> pa.Table:
    return pa.Table.from_pylist(
        [{"item_id": "i", "modality": "fused", "content_hash": "h", "fingerprint": fusion, "vector": [1.0]}],
        schema=VECTORS.schema,
    )


def test_vectors_that_no_release_which_stays_was_made_with_leave_their_table(tmp_path: Path) -> None:
    """Not beside a run that makes a release, and not those written within the grace period; then the format is told."""
    lake = Lake(str(tmp_path))
    for fusion in ("f0", "f1"):
        append(lake, "vectors", vector(fusion), fusion, WHO)
        pinned = {"vectors": lake.version("vectors")}
        publish(
            lake, candidate(lake, fusion, ["a"], versions=pinned, fusion={"fingerprint": fusion, "details": {}}).id, WHO
        )
    append(lake, "vectors", vector("of a killed run"), "killed", WHO)
    (tmp_path / "lake.json").write_text('{"format": 2}')
    lake = Lake(lake.uri)

    def left() -> set[str]:
        return {each.partition["fingerprint"] for each in lake.data_files("vectors")}

    night = RunRecord(lake, "night-1", "nightly", "r", {})
    night.begin()
    assert gc(lake, grace=timedelta()).former_vectors == {}
    night.end("finished", {})
    assert gc(lake, days=0.5).former_vectors == {}, "written within the grace period"
    told = gc(lake, days=2, remove=False).former_vectors
    assert len(told) == 2
    assert left() == {"f0", "f1", "of a killed run"}
    assert (tmp_path / "lake.json").read_text() == '{"format": 2}'
    assert gc(lake, days=2).former_vectors == told
    assert left() == {"f1"}
    assert Lake(lake.uri).format == 3
    assert generation(lake, "vectors") == 2
    assert (generation(lake, "vectors", ("fused", "f0")), generation(lake, "vectors", ("fused", "f1"))) == (1, 0)
    check_pinned(lake, read_release(lake, "production"), None, WHO)


def test_joined_files_of_bookkeeping_tables_go_and_their_rows_stay(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for number in range(35):
        RunRecord(lake, f"run-{number}", "nightly", "r", {}).end("failed", {})
    rows, before = lake.read("runs").num_rows, len(list((tmp_path / "runs").glob("part-*")))
    opened, between = Lake(lake.uri), lake.version("runs") - 40
    assert gc(lake, days=0.5).garbage == ()
    assert opened.read("runs", between).num_rows < rows, "who opened a version in the grace period reads it"
    gc(lake, days=2)
    assert lake.read("runs").num_rows == rows == 70
    assert len(list((tmp_path / "runs").glob("part-*"))) == len(lake.data_files("runs")) < before / 2


def test_files_that_commands_by_hand_left_are_joined(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    published(lake, 1)
    for number in range(40):
        row = {"table": "t", "path": f"p{number}", "sha256": "0", "size": 1, "at": TIME, "run": "r"}
        rows = pa.Table.from_pylist([row], schema=CHECKSUMS.schema)
        append(lake, "checksums", rows, f"c{number}", replace(WHO, by_hand=True))
    assert len(lake.data_files("checksums")) >= 40
    before = lake.read("checksums").num_rows
    gc(lake, days=1)
    assert len(lake.data_files("checksums")) < 10
    assert lake.read("checksums").num_rows == before


def test_a_lake_that_lost_commits_or_has_a_damaged_log_loses_nothing_to_gc(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    published(lake, 3)
    copy = Path(shutil.copytree(lake.uri, tmp_path / "copy"))
    newest = sorted((copy / "sids" / "_delta_log").glob("*.json"))[-1]
    newest.unlink()
    with pytest.raises(DataCorrupt, match="has lost commits: table 'sids' ends at version"):
        gc(Lake(str(copy)), days=9)
    entry = tmp_path / "lake" / "sids" / "_delta_log" / f"{1:020d}.json"
    entry.write_text(entry.read_text()[:-20])
    before = paths(lake)
    with pytest.raises(DataCorrupt, match="cut short or damaged"):
        gc(Lake(lake.uri), days=9)
    assert paths(lake) - before <= {each for each in paths(lake) if each.startswith("pointers/")}
    assert before <= paths(lake)


@pytest.mark.parametrize("policy", [{"keep": 0}, {"grace": -DAY}])
def test_a_policy_that_keeps_too_little_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give a "):
        replace(Policy(), **policy)


def test_rows_of_pins_and_retirements_are_rows_of_pointers() -> None:
    assert retirements(["r-000001"], datetime.now(UTC), "note", WHO).schema == POINTERS.schema
