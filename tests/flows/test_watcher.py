"""The watcher of `serve` asks for a night that the schedule missed, and for a backfill that gates say is due."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from made_releases import WHO, candidate, gate, publish

from flows import serve
from flows.gc import gc
from flows.serve import REFIT_EVENT, SNAPSHOT_EVENT, Served, Watcher
from flows.watch.due import refit_due
from flows.watch.missed import missed_night
from storage.files.store import Files
from storage.lake import Lake
from storage.releases.pointers import read_pointer
from storage.releases.releases import read_release
from storage.runs.beats import Beat, beats, record_beat
from storage.runs.details import RunResult
from storage.runs.record import RunRecord, runs

MINUTE = timedelta(minutes=1)
NEVER = "0 3 29 2 *"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    events = list[str]()
    monkeypatch.setattr(serve, "emit_event", lambda event, **others: events.append(event))
    return events


def served(lake: Lake, **settings: Any) -> Watcher:
    """A watcher that asks for no night because of news, which tests/flows/test_news.py is about."""
    watcher = Watcher(Served(lake.uri, None, [], [], **{"cron": NEVER, "timezone": "UTC", "overrides": [], **settings}))
    watcher._night.request = lambda: None
    return watcher


def night_at(lake: Lake, began: datetime) -> None:
    record_beat(lake, Beat("nightly", "n", began + MINUTE, MINUTE.total_seconds(), "finished", RunResult(made=False)))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(str(tmp_path / "lake"))
    warned = [gate(False, "warn", "capacity_used"), gate(False, "warn", "shrinkage")]
    publish(made, candidate(made, "first", ["s0"], gates=warned).id, WHO)
    return made


def test_a_night_is_missed_once_ten_minutes_have_passed_and_until_one_began(lake: Lake) -> None:
    def missed(now: datetime, zone: str = "UTC") -> datetime | None:
        return missed_night(lake, "0 3 * * *", zone, now)

    published = read_pointer(lake, "production").at
    assert published is not None
    assert missed(published) is None, "the first night is still to come"
    assert missed(published + timedelta(days=1, minutes=11)) is not None
    first = datetime(2030, 1, 1, 3, tzinfo=UTC)
    night_at(lake, first + 2 * MINUTE)
    assert missed(first + timedelta(hours=23)) is None
    assert missed(first + timedelta(days=1, minutes=10) - MINUTE) is None
    for days in (1, 5):
        assert missed(first + timedelta(days=days, minutes=11)) == first + timedelta(days=1)
    assert missed(first + timedelta(hours=23), "Europe/Berlin") is None
    assert missed(first + timedelta(hours=23, minutes=11), "Europe/Berlin") == first + timedelta(hours=23)


def test_new_objects_below_a_prefix_of_a_store_are_one_request_once_two_looks_were_equal(
    lake: Lake, asked: list[str], s3_bucket: str
) -> None:
    store = Files(f"{s3_bucket}/in")
    header = b"user_id,item_id,event_time\n"
    store.write("day=1/a.csv", header)
    watcher = Watcher(Served(lake.uri, None, [], [store.uri], NEVER, "UTC", []))

    def looks(count: int) -> list[str]:
        asked.clear()
        assert [line for _ in range(count) for line in watcher.look()] == []
        return list(asked)

    def night_reads_it() -> None:
        record_beat(lake, Beat("nightly", "n", datetime.now(UTC), 0.0, "finished", RunResult(made=True)))

    assert looks(1) == []
    assert looks(3) == [SNAPSHOT_EVENT], "what lay there before the start"
    night_reads_it()
    assert looks(3) == []
    store.write("day=2/b.csv", header)
    assert looks(1) == []
    assert looks(3) == [SNAPSHOT_EVENT]
    night_reads_it()
    assert looks(1) == []
    for name in ("day=2/c.csv", "day=3/d.csv", "e.csv"):
        store.write(name, header)
        assert looks(1) == [], "objects are still coming"
    store.write("e.csv", header + b"u,i,2026-01-01\n")
    assert looks(1) == [], "one has grown"
    assert looks(3) == [SNAPSHOT_EVENT]


def test_a_missed_night_is_asked_for_once_in_ten_minutes_and_not_where_nobody_wants_it(
    lake: Lake, asked: list[str]
) -> None:
    night_at(lake, datetime.now(UTC) - timedelta(days=3))
    every_hour = {"cron": "0 * * * *"}
    served(lake, **every_hour, catch_up=False).look()
    assert asked == []
    watcher = served(lake, **every_hour)
    for _ in range(3):
        watcher.look()
    assert asked == [SNAPSHOT_EVENT]
    record = RunRecord(lake, "nightly-1", "nightly", "", {})
    record.begin()
    served(lake, **every_hour).look()
    assert asked == [SNAPSHOT_EVENT], "one is running"
    record.end("finished", {})
    night_at(lake, datetime.now(UTC))
    served(lake, **every_hour).look()
    assert asked == [SNAPSHOT_EVENT]


def test_a_refit_is_due_by_some_gates_until_another_codebook_was_made(lake: Lake, asked: list[str]) -> None:
    assert refit_due(lake) == "the codebook c1 is due for a refit: capacity_used"
    served(lake).look()
    assert asked == [], "it was not wanted"
    watcher = served(lake, refit=True)
    for _ in range(3):
        watcher.look()
    assert asked == [REFIT_EVENT]
    candidate(lake, "second", ["s1"], created_at=datetime.now(UTC))
    assert refit_due(lake) != "", "a night keeps the codebook"
    codebook = read_release(lake, "production").codebook.model_copy(update={"fitted_by": "backfill-1"})
    candidate(lake, "third", ["s2"], created_at=datetime.now(UTC), manifest={"codebook": codebook.model_dump()})
    assert refit_due(lake) == ""
    served(lake, refit=True).look()
    assert asked == [REFIT_EVENT]


def test_a_refit_that_failed_is_not_asked_for_again_for_the_same_reason(lake: Lake, asked: list[str]) -> None:
    watcher = served(lake, refit=True)
    watcher.look()
    ended = datetime.now(UTC) + MINUTE
    record_beat(lake, Beat("backfill", "b", ended, 1.0, "failed", RunResult()))
    watcher._asked["backfill"] = watcher._asked["backfill"][0], ended - timedelta(hours=1)
    watcher.look()
    assert asked == [REFIT_EVENT]


def test_a_gc_of_a_schedule_leaves_a_sign_of_life_and_a_run_only_where_it_failed(lake: Lake) -> None:
    for key in ("second", "third"):
        publish(lake, candidate(lake, key, ["s0"]).id, WHO)
    result = gc(lake.uri, keep=1, grace_hours=0.0)
    assert result["retired"] == ["r-000001", "r-000002"]
    beat = beats(lake)["gc"]
    assert (beat.outcome, beat.result.others["retired"]) == ("finished", result["retired"])
    assert runs(lake) == []
    with pytest.raises(ValueError, match="would keep no release"):
        gc(lake.uri, keep=0)
