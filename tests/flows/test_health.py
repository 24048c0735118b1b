"""Problems of a lake, by what it records of its runs, releases, models and sources: no run is needed to see them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from brokers import KafkaBroker
from made_releases import WHO, candidate, model, publish
from source_rows import NOW as READ_AT
from source_rows import ingest_new

from flows.watch.health import Problem, Vital, problems
from flows.watch.spec import WatchSpec
from storage.commit import append
from storage.lake import Lake
from storage.releases.models import models
from storage.runs.beats import Beat, record_beat
from storage.runs.details import RunResult
from storage.runs.record import RunRecord
from storage.schemas import SOURCES

HOUR = timedelta(hours=1)
UNLIMITED = WatchSpec(production_hours=None, night_hours=None)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def ended(lake: Lake, run: str, kind: str, event: str, **result: Any) -> datetime:
    """Record a run that began and ended; return when it had ended."""
    record = RunRecord(lake, run, kind, "", {})
    record.begin()
    record.end(event, result)
    return datetime.now(UTC)


def beat(lake: Lake, at: datetime, outcome: str = "finished", **result: Any) -> None:
    record_beat(lake, Beat("nightly", f"nightly-{at:%H%M%S}", at, 60.0, outcome, RunResult.of(result)))


def names(lake: Lake, watch: WatchSpec, now: datetime | None = None) -> list[str]:
    return [each.name for each in problems(lake, watch, now)]


@pytest.mark.parametrize(
    ("ago", "limit", "message"),
    [
        (HOUR, 1, None),
        (HOUR + timedelta(minutes=1), 1, "it was 61 minutes ago; the limit is 1 hours"),
        (timedelta(days=400), None, None),
        (None, 1.5, "it never was; the limit is 1.5 hours"),
        (None, None, None),
    ],
)
def test_a_time_is_too_long_ago_beyond_its_limit(ago: timedelta | None, limit: float | None, message: str) -> None:
    vital = Vital("vital", ago and READ_AT - ago, limit, "it never was", "it was")
    assert vital.problem(READ_AT) == (Problem("vital", message) if message else None)


def test_an_empty_lake_has_no_production_no_night_and_no_model(lake: Lake) -> None:
    found = problems(lake, WatchSpec(model_hours=1, source_hours={"s3://b": 2, "s3://a": 2}))
    assert [(each.name, each.message) for each in found] == [
        ("stale_production", "nothing is published; the limit is 48 hours"),
        ("no_night", "no night has finished; the limit is 26 hours"),
        ("stale_model", "production has no model; the limit is 1 hours"),
        ("stale_source s3://a", "nothing of s3://a was read; the limit is 2 hours"),
        ("stale_source s3://b", "nothing of s3://b was read; the limit is 2 hours"),
    ]


def test_only_a_night_that_finished_with_nothing_new_confirms_the_release_of_production(lake: Lake) -> None:
    publish(lake, candidate(lake, "one", ["a"]).id, WHO)
    published, watch = datetime.now(UTC), WatchSpec(production_hours=1, night_hours=None)
    late = published + 2 * HOUR
    for outcome, result, stale in (
        ("finished", {"made": False, "release": "r-000001"}, False),
        ("failed", {"made": False, "release": "r-000001"}, True),
        ("finished", {"made": True, "release": "r-000001"}, True),
        ("finished", {"made": False, "release": "r-000002"}, True),
    ):
        beat(lake, late, outcome, **result)
        assert names(lake, watch, late) == (["stale_production"] if stale else [])
    beat(lake, published - 5 * HOUR, made=False, release="r-000001")
    assert names(lake, watch, published + HOUR / 2) == [], "a night before the publication makes it no older"


def test_the_last_night_is_the_newest_that_finished_whether_recorded_or_not_and_a_bootstrap_is_one(lake: Lake) -> None:
    watch = WatchSpec(production_hours=None, night_hours=1)
    for run, kind, event, enough in (
        ("t", "train", "finished", False),
        ("n1", "nightly", "cancelled", False),
        ("b", "bootstrap", "finished", True),
    ):
        at = ended(lake, run, kind, event)
        assert names(lake, watch, at) == ([] if enough else ["no_night"])
    assert names(lake, watch, at + 1.5 * HOUR) == ["no_night"]
    beat(lake, at + HOUR, "failed")
    assert "no_night" in names(lake, watch, at + 1.5 * HOUR)
    beat(lake, at + HOUR)
    assert names(lake, watch, at + 1.5 * HOUR) == []
    beat(lake, at - 9 * HOUR)
    assert names(lake, watch, at) == [], "the newest counts, not the sign of life"
    ended(lake, "n2", "nightly", "finished")
    assert names(lake, watch, datetime.now(UTC)) == []


def test_the_model_of_production_is_the_one_whose_age_counts(lake: Lake) -> None:
    made = candidate(lake, "one", ["a"])
    served = model(lake, "served", made.id, made.codebook.vocabulary)
    at = models(lake)[0].at
    publish(lake, made.id, WHO, served)
    watch = UNLIMITED.model_copy(update={"model_hours": 1})
    assert names(lake, watch, at + HOUR) == []
    model(lake, "newer", made.id, made.codebook.vocabulary)
    (found,) = problems(lake, watch, at + HOUR + timedelta(minutes=1))
    assert found == Problem("stale_model", "the model in production was trained 61 minutes ago; the limit is 1 hours")


def test_a_source_is_as_old_as_the_newest_that_was_read_of_its_address(lake: Lake, tmp_path: Path) -> None:
    for name in ("in/a.csv", "in/b.csv", "in/c.csv", "other/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"item_id,title\n{name},x\n")
        ingest_new(lake, str(tmp_path / name))
    times = lake.frame("sources", columns=["uri", "at"]).sort("at")
    assert [Path(uri).name for uri in times["uri"]] == ["a.csv", "b.csv", "c.csv", "d.csv"]
    address = str(tmp_path / "in")
    watch = UNLIMITED.model_copy(update={"source_hours": {address: 1}})
    newest = times["at"][2]
    assert names(lake, watch, newest + HOUR) == []
    (found,) = problems(lake, watch, newest + HOUR + timedelta(seconds=1))
    assert found.message == f"{address} gave news 60 minutes ago; the limit is 1 hours"


def test_the_newest_run_of_each_kind_is_a_problem_if_it_ended_badly(lake: Lake) -> None:
    ended(lake, "b1", "bootstrap", "failed", error="early")
    assert names(lake, UNLIMITED) == ["failed bootstrap"]
    ended(lake, "b2", "bootstrap", "finished")
    ended(lake, "t", "train", "failed", error="Broken: two\n  lines")
    ended(lake, "f", "backfill", "failed")
    ended(lake, "e", "evaluate", "cancelled", error="by a person")
    last = ended(lake, "n", "nightly", "failed", error="lately")
    assert problems(lake, UNLIMITED) == [
        Problem("failed nightly", "n failed: lately"),
        Problem("failed train", "t failed: two lines"),
        Problem("failed backfill", "f failed"),
    ]
    beat(lake, last + HOUR)
    assert names(lake, UNLIMITED) == ["failed train", "failed backfill"]


def test_a_run_that_a_gate_stopped_is_blocked_and_not_failed(lake: Lake) -> None:
    ended(lake, "n", "nightly", "failed", error="GateBlocked: r-000002 fails shrinkage")
    assert problems(lake, UNLIMITED) == [Problem("blocked nightly", "n failed: r-000002 fails shrinkage")]


def test_messages_beyond_the_limit_are_a_problem_and_so_is_a_stream_that_cannot_be_followed(
    lake: Lake, kafka_broker: KafkaBroker
) -> None:
    topic, other = kafka_broker.topic(), kafka_broker.topic()
    for number in range(3):
        kafka_broker.send(topic, b'{"item_id": "a"}')
        if not number:
            ingest_new(lake, topic)
    row = {**lake.read("sources").to_pylist()[0], "uri": f"{other}[0]@0..1", "sha256": "another"}
    append(lake, "sources", pa.Table.from_pylist([row], schema=SOURCES.schema), "another", WHO)
    watch = UNLIMITED.model_copy(update={"lag_messages": 1})
    lag, fault = problems(lake, watch)
    assert lag == Problem(f"lag {topic}", f"2 messages of {topic} are not read yet; the limit is 1 messages")
    assert fault.name == f"lag {other}"
    assert "cannot be read: Broker: Unknown topic" in fault.message
    assert names(lake, UNLIMITED.model_copy(update={"lag_messages": 2})) == [fault.name]
    assert names(lake, UNLIMITED) == []
