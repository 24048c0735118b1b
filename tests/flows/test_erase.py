"""`lake erase`: nothing of a person or an item is left in any file of a lake, and all versions can be read."""

import io
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from flows.erase import erase_from, what_is_held
from flows.inspect.verify import verify
from flows.nightly import nightly
from sidmill.release import open_trie
from storage import commit
from storage.commit import Provenance, append
from storage.erasure import erase as erasing
from storage.erasure.erase import NotErased
from storage.erasure.record import erasures, redacted, unfinished
from storage.errors import ErasedMeanwhile
from storage.files import rewritten_log
from storage.files.store import WRITING, Files
from storage.files.trim import read_trim
from storage.lake import Lake
from storage.releases.releases import read_release, releases
from storage.retention import small_files
from storage.retention.backup import backup, restore
from storage.retention.collect import collect
from storage.retention.policy import Policy
from storage.retention.small_files import join_small
from storage.runs.record import RunRecord
from storage.schemas import INTERACTIONS, SEQUENCES

WHO = Provenance("test", "")
USER, ITEM = "c4n4ry-user", "c4n4ry-item"
RECIPE: dict[str, Any] = {
    "text": None,
    "attributes": {"fields": ["kind", "size"], "dim": 8},
    "collaborative": {"method": "sppmi", "dim": 4, "min_events": 1},
    "fusion": {"method": "concat", "dim": 8},
    "codebook": {"levels": [{"codes": 8}, {"codes": 8}, {"codes": 8}]},
    "gates": {gate: {"limit": 1.0, "severity": "warn"} for gate in ("shrinkage", "events_without_sid")},
    "budget": {"quarantine_share": 1.0},
}


def items(folder: Path, first: int, count: int) -> list[str]:
    names = [f"i{number:03d}" for number in range(first, first + count)]
    rows = [{"item_id": each, "title": each, "kind": f"k{len(each) % 3}", "size": each[-1]} for each in (*names, ITEM)]
    path = folder / f"items-{first}.jsonl"
    path.write_text("".join(json.dumps({**row, "title": f"{row['title']} {first}"}) + "\n" for row in rows))
    return [str(path)]


def log(folder: Path, number: int) -> list[str]:
    path, day = folder / f"log-{number}.csv", f"2024-01-{10 * (1 + number)}"
    names = [*(f"i{number:03d}" for number in range(8)), ITEM]
    rows = [
        f"{user},{names[place]},2024-01-{10 * number + 1 + place:02d}"
        for user in ("u1", "u2", "u3", USER)
        for place in range(number, len(names))
    ]
    rows += [f"{USER},unknown,{day}", f"{USER},i001,never", f",{ITEM},{day}", f"u1,i001,{day}T01:00:00"]
    path.write_text("\n".join(["user_id,item_id,event_time", *rows]) + "\n")
    return [str(path)]


@pytest.fixture(scope="module")
def after_nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake after a bootstrap and two nights, with refused and waiting rows; each test has a copy of it."""
    folder = tmp_path_factory.mktemp("erase")
    lake = Lake(str(folder / "lake"))
    bootstrap(lake.uri, RECIPE, items(folder, 0, 12), log(folder, 0))
    for night in (1, 2):
        nightly(lake.uri, None, items(folder, 20 * night, 2), log(folder, night))
    lake.files.write("logs/night-1.log", f"a row of '{USER}' was refused, and {ITEM}\n".encode())
    RunRecord(lake, "night-1", "nightly", "", {}).end("failed", {"error": f"a row of '{USER}'"})
    return Path(lake.uri)


@pytest.fixture
def lake(after_nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setattr(rewritten_log, "LOADING_S", 0)
    return Lake(str(shutil.copytree(after_nights, tmp_path / "lake")))


def holding(lake: Lake, word: str) -> list[str]:
    """The files of a lake that hold a word in their bytes, or in their rows if they are Parquet."""
    found = []
    for path in sorted(Path(lake.uri).rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        if data[:4] == b"PAR1" and data[-4:] == b"PAR1":
            data += pl.from_arrow(pq.read_table(io.BytesIO(data))).write_json().encode()
        if word.encode() in data or word in str(path):
            found.append(str(path.relative_to(lake.uri)))
    return found


def wrong(lake: Lake) -> list[str]:
    return [f"{each.subject} {each.what}: {each.fault}" for each in verify(lake) if each.fault]


def rows(lake: Lake, erased: bool = False) -> dict[str, list[str]]:
    """Rows of the versions that releases pin and of the newest ones; with `erased`, as an erasure leaves them."""
    found = {}
    for table in ("items", "interactions", "vectors", "sids", "drift", "sequences"):
        for version in {*(each.versions.get(table, -1) for each in releases(lake)), lake.version(table)} - {-1}:
            kept = lake.read(table, version).to_pylist()
            if erased:
                kept = [nameless(row) for row in kept if table == "sids" or not about(row)]
            found[f"{table}@{version}"] = sorted(map(str, kept))
    return found


def about(row: dict[str, Any]) -> bool:
    return USER in (row.get("user_id"), row.get("item_id")) or row.get("item_id") == ITEM


def nameless(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the SID table with the name of the item left out; its SID stays."""
    if row.get("item_id") != ITEM:
        return row
    return {**row, "item_id": " erased " + ".".join(map(str, row["codes"])), "vector_hash": ""}


def test_nothing_of_a_user_and_an_item_is_left_in_any_file_and_no_other_row_is_lost(lake: Lake) -> None:
    assert holding(lake, USER)
    assert holding(lake, ITEM)
    before = rows(lake, erased=True)
    held = what_is_held(lake, frozenset({USER}), frozenset({ITEM}))
    assert {"items", "interactions", "vectors", "sids", "quarantine", "runs"} <= held.rows.keys()
    erased = erase_from(lake, frozenset({USER}), frozenset({ITEM}), f"for {USER}", WHO, 0)
    assert erased.held == held
    assert holding(lake, USER) == []
    assert holding(lake, ITEM) == []
    after = rows(lake)
    assert {name: after[name] for name in before} == before
    assert wrong(lake) == []
    assert what_is_held(lake, frozenset({USER}), frozenset({ITEM})).rows == {}
    assert redacted(lake).keys() == set(held.seen.pinned) == {each.id for each in releases(lake)}
    assert [(each.subjects, each.reason, each.done) for each in erasures(lake)] == [
        ({"users": 1, "items": 1}, "for [erased]", True)
    ]


def test_drafts_of_killed_writers_go_with_what_is_erased(lake: Lake) -> None:
    drafts = [Path(lake.uri, *place, f"{WRITING}1") for place in (("erasing",), ("blobs", "ab"))]
    for path in drafts:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"users": [USER], "items": [ITEM]}))
    forget_both(lake)
    assert left(lake) == []
    assert not any(path.exists() for path in drafts)


def forget_both(lake: Lake, wait_s: float = 0) -> None:
    erase_from(lake, frozenset({USER}), frozenset({ITEM}), "", WHO, wait_s)


def left(lake: Lake) -> list[str]:
    """The files that hold something still, and the faults of a lake."""
    return [*holding(lake, USER), *holding(lake, ITEM), *wrong(lake)]


class Killed(BaseException):
    """The process is gone at this point."""


def test_an_erasure_killed_anywhere_leaves_versions_that_can_be_read_and_its_rerun_ends_it(
    after_nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes, deletions and commits are counted, and the process ends before or after one of them."""
    monkeypatch.setattr(rewritten_log, "LOADING_S", 0)
    before, original = rows(Lake(str(after_nights)), erased=True), rows(Lake(str(after_nights)))
    steps, last = 0, 0

    def counted(real: Callable[..., Any], after: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **others: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == last and not after:
                raise Killed
            result = real(*arguments, **others)
            if steps == last:
                raise Killed
            return result

        return call

    def erase_here(lake: Lake, after: bool) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in ((Files, "write"), (Files, "delete"), (commit, "_commit")):
                patch.setattr(owner, name, counted(getattr(owner, name), after))
            forget_both(lake)

    whole = Lake(str(shutil.copytree(after_nights, tmp_path / "whole")))
    erase_here(whole, False)
    points, expected = steps, rows(whole)
    assert points > 60
    for number, point in enumerate(range(1, points, max(1, points // 4))):
        lake = Lake(str(shutil.copytree(after_nights, tmp_path / f"{point}")))
        steps, last = 0, point
        with pytest.raises(Killed):
            erase_here(lake, number % 2 == 0)
        assert {name: found for name, found in rows(lake, erased=True).items() if name in before} == before
        assert all("did not end" in each or "trie" in each or "a vector of every" in each for each in wrong(lake))
        if unfinished(lake):
            assert run_command(["lake", "erase", "--resume", "--yes", "--wait", "0s", "--lake", lake.uri]) == 0
        elif not erasures(lake):  # it was killed before it changed anything
            assert [name for name, found in rows(lake).items() if found != original[name]] == []
            forget_both(lake)
        assert left(lake) == []
        found = rows(lake)
        assert {name: found[name] for name in before} == {name: expected[name] for name in before}


def test_an_erasure_waits_for_a_run_and_takes_out_what_it_wrote_from_memory(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = RunRecord(lake, "night-2", "nightly", "", {})
    night.begin()
    kept, (event, *_) = lake.read("interactions"), lake.read("interactions").to_pylist()
    stored = {**event, "release": "r-000001-in-1", "bucket": 0, "user_id": USER, "codes": [1, 2, 3], "fresh": True}
    stored = {name: stored[name] for name in SEQUENCES.schema.names}
    assert not lake.exists("sequences")
    with pytest.raises(NotErased, match="night-2 may hold rows of what you erase"):
        forget_both(lake)
    assert any("did not end" in each for each in wrong(lake))
    assert USER not in lake.read("interactions")["user_id"].to_pylist()
    assert holding(lake, USER)

    def ends(seconds: float) -> None:
        if not night.begun:
            return
        append(lake, "interactions", kept, "from memory", WHO)
        append(lake, "sequences", pa.Table.from_pylist([stored], SEQUENCES.schema), "a table that is new", WHO)
        night.end("finished", {})
        night.begun = False

    monkeypatch.setattr(erasing.time, "sleep", ends)
    forget_both(lake, wait_s=60)
    assert left(lake) == []
    assert [each.done for each in erasures(lake)] == [True]


def test_a_run_that_looked_at_rows_before_they_were_erased_does_not_begin(lake: Lake) -> None:
    """An erasure waits for runs that have begun; this one had not."""
    early, late = RunRecord(lake, "early", "train", "", {}), RunRecord(lake, "late", "train", "", {})
    late.begin()
    with pytest.raises(NotErased, match="late"):
        forget_both(lake)
    with pytest.raises(ErasedMeanwhile, match="run the same command again"):
        early.begin()
    again = RunRecord(lake, "again", "train", "", {})
    again.begin()
    for each in (early, late, again):
        each.end("finished", {})
    forget_both(lake)
    assert left(lake) == []


@pytest.mark.parametrize("table", ["interactions", "runs"])
def test_a_join_that_read_rows_before_they_were_erased_does_not_bring_them_back(
    table: str, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has written its file, and commits after the erasure."""
    before = lake.read(table, columns=["user_id"] if table == "interactions" else ["run"]).num_rows
    write, done = commit.write_rows, []

    def meanwhile(*arguments: Any, **others: Any) -> Any:
        made = write(*arguments, **others)
        if not done:
            done.append(True)
            forget_both(lake)
        return made

    monkeypatch.setattr(commit, "MAX_FILES", 1)
    monkeypatch.setattr(small_files, "MAX_SMALL_FILES", 1)
    monkeypatch.setattr(commit, "write_rows", meanwhile)
    assert join_small(lake, table, WHO) == 0
    after = lake.read(table, columns=["user_id"] if table == "interactions" else ["run"]).num_rows
    assert done
    assert after == before if table == "runs" else after < before
    assert left(lake) == []
    assert join_small(lake, table, WHO) > 0
    assert left(lake) == []


def test_a_lake_whose_logs_were_cut_and_have_checkpoints_is_erased_too(lake: Lake) -> None:
    for number in range(30):
        event = lake.read("interactions").slice(0, 1).to_pylist()[0]
        event |= {"event_id": f"more-{number}", "user_id": USER, "item_id": ITEM if number % 2 else "i001"}
        append(lake, "interactions", pa.Table.from_pylist([event], INTERACTIONS.schema), f"more-{number}", WHO)
    pinned = releases(lake)[-1].versions["interactions"]
    collect(lake, Policy(keep=1, grace=timedelta()), WHO, remove=True, now=datetime.now(UTC) + timedelta(days=1))
    assert read_trim(lake.table_files("interactions")).before > 0
    before = lake.read("interactions", pinned).num_rows
    forget_both(lake)
    assert left(lake) == []
    assert 0 < lake.read("interactions", pinned).num_rows < before
    assert lake.read("interactions").num_rows < 100


def test_a_night_goes_on_after_an_erasure_and_no_sid_moves(lake: Lake, tmp_path: Path) -> None:
    def sids() -> dict[str, list[int]]:
        trie = open_trie(lake, read_release(lake, "production"))
        return dict(zip(trie.item_ids.to_pylist(), trie.codes().tolist(), strict=True))

    before = sids()
    forget_both(lake)
    assert sids() == {item: codes for item, codes in before.items() if item != ITEM}
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps({"item_id": "new", "title": "new", "kind": "k1", "size": "1"}) + "\n")
    nightly(lake.uri, None, [str(path)], [])
    assert {item: codes for item, codes in sids().items() if item != "new"} == {
        item: codes for item, codes in before.items() if item != ITEM
    }
    assert wrong(lake) == []


def test_without_yes_the_command_says_what_is_held_and_changes_nothing(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in Path(lake.uri).rglob("*") if path.is_file()}
    ids = tmp_path / "ids"
    ids.write_text(f"{USER}\nnobody\n")
    command = ["lake", "erase", "--users-from", str(ids), "--lake", lake.uri]
    run_command(command)
    out = capsys.readouterr().out
    assert "would erase 2 ids of users; rows by table:" in out
    assert "fitted with them: vectors, codebooks and tries of r-000001" in out
    fitted = read_release(lake, "r-000001")
    assert f"    fusions: {fitted.fusion.fingerprint}\n    codebooks: {fitted.codebook.id}\n" in out
    assert "nothing was changed; run it again with --yes" in out
    assert {path: path.read_bytes() for path in Path(lake.uri).rglob("*") if path.is_file()} == before
    run_command([*command, "--yes"])
    assert not holding(lake, USER)
    run_command([*command, "--yes"])
    assert "the lake holds nothing of 2 ids of users" in capsys.readouterr().out


def test_releases_and_the_audit_log_say_that_something_was_erased(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(["lake", "erase", "--user", USER, "--reason", "ticket 4711", "--yes", "--lake", lake.uri])
    run_command(["release", "list", "--lake", lake.uri])
    out = capsys.readouterr().out
    assert out.count("was redacted by `sidmill lake erase` on") == 3
    run_command(["lake", "audit", "--lake", lake.uri])
    assert '{"items": 0, "users": 1}  ticket 4711  lake erase by' in capsys.readouterr().out


@pytest.mark.slow
def test_a_lake_in_an_object_store_is_erased_too(lake: Lake, s3_bucket: str) -> None:
    remote = Lake(f"{s3_bucket}/erased")
    backup(lake, f"{s3_bucket}/backup", "production", WHO)
    restore(f"{s3_bucket}/backup", remote)
    pinned = releases(remote)[-1].versions["interactions"]
    before = remote.read("interactions", pinned).num_rows
    forget_both(remote)
    for each in remote.files.found():
        data = remote.files.read(each.path)
        if data[:4] == b"PAR1":
            data += repr(pq.read_table(io.BytesIO(data)).to_pylist()).encode()
        assert USER.encode() not in data, each.path
        assert ITEM.encode() not in data, each.path
    assert 0 < remote.read("interactions", pinned).num_rows < before
    assert wrong(remote) == []
