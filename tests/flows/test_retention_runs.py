"""Nights on a lake that `lake gc` keeps small: they find what they need, and SIDs stay."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import flows.backfill
import flows.candidates
import flows.nightly
from flows.backfill import backfill
from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from flows.inspect.verify import verify
from flows.nightly import nightly
from flows.snapshot import Snapshot
from pipelines.modalities import FUSED
from pipelines.vector_store import cached
from sidmill.release import open_trie
from storage import commit
from storage.commit import Provenance, take_out
from storage.errors import DataCorrupt, ErasedMeanwhile
from storage.lake import Lake
from storage.migrate import migrate
from storage.releases.completeness import lost_commits
from storage.releases.releases import read_release, releases
from storage.retention import collect as collecting
from storage.retention import small_files
from storage.retention.collect import Collected, collect
from storage.retention.policy import Policy
from storage.runs.record import RunRecord, runs

WHO = Provenance("test", "")
RECIPE: dict[str, Any] = {
    "text": None,
    "attributes": {"fields": ["kind", "size"], "dim": 8},
    "fusion": {"method": "concat", "dim": 8},
    "codebook": {"levels": [{"codes": 8}, {"codes": 8}, {"codes": 8}]},
    "gates": {gate: {"limit": 1.0, "severity": "warn"} for gate in ("shrinkage", "events_without_sid")},
}


def items(folder: Path, first: int, count: int) -> list[str]:
    path = folder / f"items-{first}.jsonl"
    rows = [
        {"item_id": f"i{number:03d}", "title": "x", "kind": f"k{number % 3}", "size": f"s{number % 4}"}
        for number in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path)]


def log(folder: Path, number: int) -> list[str]:
    path = folder / f"log-{number}.csv"
    rows = [f"u{user},i{user % 8:03d},2024-01-{1 + number:02d}" for user in range(6)]
    path.write_text("\n".join(["user_id,item_id,event_time", *rows]) + "\n")
    return [str(path)]


def sids(lake: Lake, release: str = "production") -> dict[str, tuple[int, ...]]:
    trie = open_trie(lake, read_release(lake, release))
    return {item: tuple(codes) for item, codes in zip(trie.item_ids.to_pylist(), trie.codes().tolist(), strict=True)}


def wrong(lake: Lake) -> list[str]:
    return [f"{each.subject} {each.what}: {each.fault}" for each in verify(lake) if each.fault]


@pytest.fixture(scope="module")
def after_nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake after a bootstrap and two nights; each test has a copy of it."""
    folder = tmp_path_factory.mktemp("nights")
    lake = Lake(str(folder / "lake"))
    bootstrap(lake.uri, RECIPE, items(folder, 0, 12), log(folder, 0))
    for night in (1, 2):
        nightly(lake.uri, None, items(folder, 20 * night, 2), log(folder, night))
    return Path(lake.uri)


def test_the_newest_log_entry_of_every_table_that_a_run_wrote_is_missed(after_nights: Path, tmp_path: Path) -> None:
    """But that of the last commit of a run, which nothing has seen yet."""
    assert list(lost_commits(Lake(str(after_nights)))) == []
    written = {path.parent.name for path in after_nights.glob("*/_delta_log")}
    assert {"items", "interactions", "vectors", "sids", "sources", "releases", "pointers", "runs"} <= written
    missed = set()
    for table in sorted(written):
        copy = Path(shutil.copytree(after_nights, tmp_path / table))
        sorted((copy / table / "_delta_log").glob("*.json"))[-1].unlink()
        if faults := list(lost_commits(Lake(str(copy)))):
            missed.add(table)
            assert any(f"table {table!r} ends at version" in fault for fault in faults)
            record = RunRecord(Lake(str(copy)), "nightly-1", "nightly", "r", {})
            with pytest.raises(DataCorrupt, match=r"has lost commits.*Copy it again.*restore a backup"):
                record.begin()
    assert written - missed == {"runs"}
    assert any("no commit is lost" in each for each in wrong(Lake(str(tmp_path / "items"))))


def test_nights_go_on_beside_gc_and_rollback_offers_what_stays(
    after_nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(str(shutil.copytree(after_nights, tmp_path / "lake")))
    first, before = sids(lake, "r-000001"), sids(lake)
    publish = flows.nightly.publish

    def collected(*arguments: Any) -> Any:
        found = collect(lake, Policy(1, timedelta()), Provenance("test", ""), remove=True)
        assert found.running, "the candidate of this run is not published yet, and stays"
        return publish(*arguments)

    monkeypatch.setattr(flows.nightly, "publish", collected)
    assert nightly(lake.uri, None, items(tmp_path, 60, 2), log(tmp_path, 3))["published"]
    monkeypatch.undo()
    capsys.readouterr()
    command = ["lake", "gc", "--keep", "2", "--grace", "0s", "--lake", lake.uri]
    assert run_command(command) == 0
    told = capsys.readouterr().out
    assert "2 releases stay" in told
    assert "Nothing was changed. Add --yes" in told
    assert run_command([*command, "--yes", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["done"]
    assert {"r-000003", "r-000004"} == set(done["kept"]["releases"])
    assert wrong(lake) == []
    assert run_command(["release", "rollback", "--to", "r-000001", "--lake", lake.uri]) == 1
    assert "r-000001 was retired on" in capsys.readouterr().err
    assert run_command(["release", "rollback", "--lake", lake.uri]) == 0
    assert sids(lake) == before
    assert run_command(["release", "rollback", "--lake", lake.uri]) == 1
    assert run_command(["release", "publish", "r-000004", "--lake", lake.uri]) == 0
    nightly(lake.uri, None, items(tmp_path, 80, 2), log(tmp_path, 4))
    after = sids(lake)
    assert first.items() <= after.items()
    assert before.items() <= after.items()
    assert len(after) == 12 + 2 * 4
    assert wrong(lake) == []
    assert run_command(["report", "--lake", lake.uri, "--output", str(tmp_path / "page.html")]) == 0
    capsys.readouterr()
    assert run_command(["release", "pin", "production", "--reason", "audit", "--lake", lake.uri]) == 0
    assert run_command(["release", "list", "--lake", lake.uri]) == 0
    listed = capsys.readouterr().out
    assert "r-000005 pinned on" in listed
    assert "retired: by `sidmill lake gc`" in listed
    assert run_command(["release", "unpin", "production", "--lake", lake.uri]) == 0


def retire_all_but_newest(lake: Lake) -> Collected:
    """Collect with no grace period, twice: what is retired first goes then."""
    collect(lake, Policy(1, timedelta()), WHO, remove=True)
    return collect(lake, Policy(1, timedelta()), WHO, remove=True)


def test_vectors_of_a_former_fusion_go_and_a_backfill_that_wants_them_again_makes_them(
    after_nights: Path, tmp_path: Path
) -> None:
    """Their table would grow with every fusion for good; and by the keys of its commits it has them already."""
    lake = Lake(str(shutil.copytree(after_nights, tmp_path / "lake")))
    backfill(lake.uri, RECIPE, publish_when_done=True)
    first, before = read_release(lake, "production"), sids(lake)
    vectors = {each.path for each in lake.data_files("vectors")}
    retire_all_but_newest(lake)
    assert retire_all_but_newest(lake).former_vectors == {}, "all are of the release in production"

    backfill(lake.uri, {**RECIPE, "fusion": {"method": "concat", "dim": 4}}, publish_when_done=True)
    other = read_release(lake, "production")
    assert other.fusion != first.fusion
    retire_all_but_newest(lake)
    assert first.fusion.fingerprint not in {each.partition["fingerprint"] for each in lake.data_files("vectors")}
    assert wrong(lake) == [], "production pins the version that has them"
    assert nightly(lake.uri, None, None, log(tmp_path, 5))["published"]
    retire_all_but_newest(lake)
    left = {path.name for path in Path(lake.path("vectors")).glob("part-*")}
    assert left == {each.path for each in lake.data_files("vectors")}
    assert vectors - left, "the files are gone"

    backfill(lake.uri, RECIPE, publish_when_done=True)
    again = read_release(lake, "production")
    assert again.fusion == first.fusion
    assert sids(lake) == before
    assert wrong(lake) == []
    stored = cached(lake, FUSED, again.fusion.fingerprint, version=again.versions["vectors"])
    assert sorted(stored["item_id"]) == sorted(sids(lake))
    assert nightly(lake.uri, None, items(tmp_path, 90, 2), log(tmp_path, 6))["published"]
    assert wrong(lake) == []


def test_a_release_that_lacks_vectors_of_its_items_is_told(after_nights: Path, tmp_path: Path) -> None:
    lake = Lake(str(shutil.copytree(after_nights, tmp_path / "lake")))
    fusion = read_release(lake, "production").fusion.fingerprint
    paths = [each.path for each in lake.data_files("vectors") if each.partition["fingerprint"] == fusion]
    take_out(lake, "vectors", paths[:1], WHO)
    assert nightly(lake.uri, None, None, log(tmp_path, 5))["published"]
    (found,) = wrong(lake)
    assert found.startswith("r-000004 a vector of every item: version")
    assert "for 16 items: publish another release" in found


def test_a_run_that_may_have_read_vectors_before_gc_took_them_out_makes_no_release(
    after_nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gc looked for runs just before this one began, and took out what it was about to use again."""
    lake = Lake(str(shutil.copytree(after_nights, tmp_path / "lake")))
    backfill(lake.uri, {**RECIPE, "fusion": {"method": "concat", "dim": 4}}, publish_when_done=True)
    retire_all_but_newest(lake)
    made, assign = len(releases(lake)), flows.candidates.assign

    def after_gc(*arguments: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(collecting, "running_runs", lambda *_: [])
            assert collect(lake, Policy(1, timedelta()), WHO, remove=True).former_vectors
        return assign(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(flows.candidates, "assign", after_gc)
        with pytest.raises(ErasedMeanwhile, match=r"took vectors of former releases out.*run the same command again"):
            backfill(lake.uri, RECIPE, publish_when_done=True)
    assert wrong(lake) == []
    assert len(releases(lake)) == made, "no candidate was recorded"
    backfill(lake.uri, RECIPE, publish_when_done=True)
    assert len(sids(lake)) == 16
    assert wrong(lake) == []


def test_a_run_that_gc_overtook_before_it_was_recorded_ends_before_it_works(
    after_nights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(shutil.copytree(after_nights, tmp_path / "lake")))
    backfill(lake.uri, {**RECIPE, "fusion": {"method": "concat", "dim": 4}}, publish_when_done=True)
    collect(lake, Policy(1, timedelta()), WHO, remove=True)  # releases of the former fusion are retired
    look, taken = flows.backfill.take_snapshot, []

    def after_gc(*arguments: Any, **options: Any) -> Any:
        taken.append(take_out(lake, "vectors", [lake.data_files("vectors")[0].path], WHO, ("fused", "former")))
        return look(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(flows.backfill, "take_snapshot", after_gc)
        with pytest.raises(ErasedMeanwhile):
            backfill(lake.uri, {**RECIPE, "fusion": {"method": "concat", "dim": 6}})
    assert taken == [True]
    assert runs(lake)[-1].stages == []


def next_night(folder: Path) -> dict[str, list[str]]:
    return {"items": items(folder, 60, 3), "interactions": log(folder, 5)}


@pytest.fixture(scope="module")
def undisturbed(after_nights: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The lake after one more night."""
    folder = tmp_path_factory.mktemp("undisturbed")
    lake = Lake(str(shutil.copytree(after_nights, folder / "lake")))
    assert nightly(lake.uri, None, **next_night(folder))["published"]
    return lake


def test_a_night_after_its_files_were_joined_does_and_makes_what_it_would_have(
    after_nights: Path, undisturbed: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "MAX_FILES", 2)
    monkeypatch.setattr(small_files, "MAX_SMALL_FILES", 2)
    lake, now = Lake(str(shutil.copytree(after_nights, tmp_path / "lake"))), datetime.now(UTC)

    def seen() -> dict[str, Any]:
        return Snapshot(lake.ref("items"), lake.ref("interactions"), now, now).content(lake)

    before = seen()
    found = collect(lake, Policy(1, timedelta()), Provenance("test", ""), remove=True)
    assert {"items", "sids", "vectors"} <= found.joined.keys()
    assert len(lake.data_files("sids")) == 1
    assert not nightly(lake.uri)["made"], "nothing has arrived"
    assert seen() == before, "a run that is done again finds what it made"
    assert nightly(lake.uri, None, **next_night(tmp_path))["published"]
    made, wanted = (read_release(each, "production") for each in (lake, undisturbed))
    assert (made.counts, made.items) == (wanted.counts, wanted.items)
    assert sids(lake) == sids(undisturbed)
    assert wrong(lake) == []


def test_a_restored_backup_verifies_and_the_same_night_gives_the_same_sids(
    after_nights: Path, undisturbed: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The restore drill: the lake is lost, and what the commands give back goes on as it would have."""
    lake = Lake(str(shutil.copytree(after_nights, tmp_path / "lake")))
    assert run_command(["lake", "backup", str(tmp_path / "backup"), "--lake", lake.uri]) == 0
    shutil.rmtree(lake.uri)
    capsys.readouterr()
    assert run_command(["lake", "restore", str(tmp_path / "backup"), "--lake", lake.uri]) == 0
    told = capsys.readouterr().out
    assert "each with its hash" in told
    assert "production -> (r-000003, no model)" in told
    restored = Lake(lake.uri)
    assert wrong(restored) == []
    assert nightly(restored.uri, None, **next_night(tmp_path))["published"]
    assert sids(restored) == sids(undisturbed)
    assert wrong(restored) == []
    again = items(after_nights.parent, 20, 2)
    assert not nightly(restored.uri, None, again)["made"], "what was read before the backup is known as read"


def test_a_lake_of_format_1_is_collected_and_a_night_runs_on_what_is_left(old_lake: Lake, tmp_path: Path) -> None:
    """It has data files of Delta's own writer, a model, and sequences."""
    who = Provenance("test", "recipe")
    list(migrate(old_lake, who))
    lake = Lake(old_lake.uri)
    before = sids(lake)
    found = collect(lake, Policy(1, timedelta()), who, remove=True)
    assert found.kept.releases == {"r-000001": "m-000001 was trained on it", "r-000002": "production points to it"}
    assert wrong(lake) == []
    assert nightly(lake.uri, items=items(tmp_path, 500, 2))["made"]
    assert before.items() <= sids(lake).items()
    collect(lake, Policy(1, timedelta()), who, remove=True)
    assert wrong(lake) == []
    assert [each.id for each in releases(lake)] == ["r-000001", "r-000003"]
