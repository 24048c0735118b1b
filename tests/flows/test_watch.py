"""Watching a lake: what is too old, failed or lags is a problem; each is told once, and once when it is over."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from brokers import KafkaBroker
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SendgridEmail
from prometheus_client.parser import text_string_to_metric_families
from receiver import Receiver

from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from flows.inspect.lake_state import lake_state
from flows.nightly import nightly
from flows.watch.health import Problem, problems
from flows.watch.lag import lags
from flows.watch.metrics import metrics_text
from flows.watch.spec import WatchSpec
from storage.commit import Provenance
from storage.errors import QuarantineBudgetExceeded
from storage.lake import Lake
from storage.releases.publishing import hold
from storage.releases.releases import read_release
from storage.runs.beats import beats
from storage.runs.record import in_a_line

WHO = Provenance("test", "")
RECIPE: dict[str, Any] = {
    "attributes": {"fields": ["kind"], "dim": 8},
    "fusion": {"method": "concat", "dim": 8},
    "codebook": {"levels": [{"codes": 4}, {"codes": 4}]},
    "gates": {"utilisation": {"limit": 0.0}, "relative_error": {"limit": 2.0}},
}


def items(path: Path, *names: str) -> str:
    path.write_text("item_id,title,kind\n" + "".join(f"{name},{name},{name[0]}\n" for name in names))
    return str(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watch")
    bootstrap(str(folder / "lake"), RECIPE, [items(folder / "items.csv", "a1", "a2", "b1", "b2")])
    return folder / "lake"


@pytest.fixture
def lake(made: Path, tmp_path: Path) -> Lake:
    shutil.copytree(made, tmp_path / "lake")
    return Lake(str(tmp_path / "lake"))


def names(found: list[Problem]) -> list[str]:
    return [each.name for each in found]


def hours(count: float) -> datetime:
    return datetime.now(UTC) + timedelta(hours=count)


def test_what_is_too_old_is_a_problem(lake: Lake, made: Path) -> None:
    sources = {str(made.parent): 20, "s3://x": 1}
    watch = WatchSpec(production_hours=10, night_hours=5, model_hours=3, source_hours=sources)
    assert names(problems(lake, watch)) == ["stale_model", "stale_source s3://x"]
    (model, source) = problems(lake, watch)
    assert model.message == "production has no model; the limit is 3 hours"
    assert source.message == "nothing of s3://x was read; the limit is 1 hours"
    old = problems(lake, watch.model_copy(update={"model_hours": None, "source_hours": {}}), hours(11))
    assert [each.message for each in old] == [
        "production was last published or confirmed by a night 11 hours ago; the limit is 10 hours",
        "the last night finished 11 hours ago; the limit is 5 hours",
    ]
    unlimited = WatchSpec(production_hours=None, night_hours=None, source_hours={str(made.parent): 20})
    assert names(problems(lake, unlimited, hours(21))) == [f"stale_source {made.parent}"]


def test_a_night_that_finds_nothing_writes_no_commit_and_confirms_production(lake: Lake) -> None:
    versions = {table: lake.version(table) for table in ("items", "runs", "releases", "pointers")}
    nightly(lake.uri)
    assert {table: lake.version(table) for table in versions} == versions
    beat = beats(lake)["nightly"]
    assert beat.found_nothing
    assert beat.result.release == "r-000001"
    watch = WatchSpec(production_hours=10)
    later = beat.at + timedelta(hours=9.9)
    assert problems(lake, watch, later) == []
    assert names(problems(lake, watch, beat.at + timedelta(hours=10.1))) == ["stale_production"]


def test_nights_whose_releases_are_not_published_do_not_renew_production(lake: Lake, tmp_path: Path) -> None:
    hold(lake, WHO, "prices are wrong")
    nightly(lake.uri, None, [items(tmp_path / "new.csv", "c1")])
    ended = beats(lake)["nightly"].at
    released = read_release(lake, "production").created_at
    assert released < ended
    found = problems(lake, WatchSpec(production_hours=1, night_hours=1), released + timedelta(hours=1, seconds=30))
    assert "stale_production" in names(found)


def failing(lake: Lake, tmp_path: Path, *overrides: str) -> None:
    """A night that refuses more rows than it may."""
    bad = tmp_path / "bad.csv"
    bad.write_text("item_id,title,kind\n,x,a\n,y,b\n")
    with pytest.raises(QuarantineBudgetExceeded):
        nightly(lake.uri, None, [str(bad)], overrides=["budget.quarantine_rows=0", *overrides])


def test_a_failed_night_leaves_its_log_with_the_traceback_and_is_a_problem_until_one_ends_well(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(lake, tmp_path)
    beat = beats(lake)["nightly"]
    assert beat.outcome == "failed"
    log = Path(beat.result.log).read_text()
    assert f"nightly ({beat.run}) on {lake.uri}" in log
    assert "Traceback (most recent call last)" in log
    assert "QuarantineBudgetExceeded" in log.splitlines()[-1]
    (found,) = problems(lake, WatchSpec())
    assert found.name == "failed nightly"
    assert found.message.startswith(f"{beat.run} failed: ingest ")
    assert in_a_line("KeyError: 'path'") == "KeyError: 'path'", "no words without its class"
    capsys.readouterr()
    assert run_command(["lake", "check", "--lake", lake.uri]) == 3
    assert "failed nightly" in capsys.readouterr().err
    nightly(lake.uri)
    assert problems(lake, WatchSpec()) == []
    assert run_command(["lake", "check", "--lake", lake.uri]) == 0
    assert "a later nightly found nothing to do" in lake_state(lake).lines[1]


def test_what_fails_while_a_failure_is_told_does_not_hide_it(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk."""

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("write_log", "record_beat", "problems", "show_failure"):
        monkeypatch.setattr(f"flows.runtime.ending.{name}", full)
    monkeypatch.setattr("storage.runs.record.RunRecord.end", full)
    failing(lake, tmp_path, "watch.alert_command=/bin/false")
    told = capsys.readouterr().out
    for what in ("log of the failure", "record of the failure", "sign of life", "alerts", "artifact of the failure"):
        assert f"warning: the {what} failed: [Errno 28] No space left on device" in told


def test_runs_tell_the_hooks_of_their_recipe_also_through_a_block_of_prefect(
    lake: Lake, tmp_path: Path, receiver: Receiver
) -> None:
    block = CustomWebhookNotificationBlock(
        name="operators", url=receiver.address, json_data={"subject": "{{subject}}", "body": "{{body}}"}
    )
    nightly(lake.uri)  # has a Prefect server
    block.save("operators", overwrite=True)
    overrides = ["watch.alert_block=custom-webhook/operators"]
    failing(lake, tmp_path, *overrides)
    nightly(lake.uri, overrides=overrides)
    subjects = [each["subject"] for each in receiver.got]
    assert subjects == ["sidmill: problem: failed nightly", "sidmill: recovered: failed nightly"]


def test_a_block_that_sends_mail_gets_the_subject_and_the_text(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = list[tuple[str, str]]()

    def deliver(client: Any, body: str, title: str, **others: Any) -> bool:
        sent.append((title, body))
        return True

    monkeypatch.setattr("apprise.Apprise.notify", deliver)
    nightly(lake.uri)  # has a Prefect server
    mail = SendgridEmail(api_key="none", sender_email="sidmill@shop.example", to_emails=["operators@shop.example"])
    mail.save("operators", overwrite=True)
    failing(lake, tmp_path, "watch.alert_block=sendgrid-email/operators")
    ((subject, text),) = sent
    assert subject == "sidmill: problem: failed nightly"
    assert "were quarantined" in text


def test_metrics_say_what_the_lake_holds(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failing(lake, tmp_path)
    output = tmp_path / "sidmill.prom"
    assert run_command(["lake", "metrics", "--lake", lake.uri, "--output", str(output)]) == 0
    capsys.readouterr()
    assert run_command(["lake", "metrics", "--lake", lake.uri]) == 0
    for text in (output.read_text(), capsys.readouterr().out):
        samples = {
            (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "lake")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert samples["sidmill_production_items",] == 4
        assert samples["sidmill_production_info", "", "r-000001"] == 1
        assert samples["sidmill_table_rows", "items"] == lake.rows("items")
        assert samples["sidmill_run_finished", "bootstrap"] == 1
        assert samples["sidmill_run_finished", "nightly"] == 0
        assert samples["sidmill_run_read_bytes", "bootstrap"] > 0
        assert samples["sidmill_quarantine_rows", "missing_item_id"] == 2
        assert samples["sidmill_gate_passed", "collision_rate"] == 1
        assert samples["sidmill_stage_rows", "bootstrap", "ingest items"] == 4
        assert samples["sidmill_problem", "failed nightly"] == 1
        assert samples["sidmill_problems",] == 1
        assert samples["sidmill_held",] == 0


def streams(lake: Lake) -> dict[str, float]:
    """The metrics of the one stream of a lake."""
    families = text_string_to_metric_families(metrics_text(lake, WatchSpec()).decode())
    found = [sample for family in families for sample in family.samples if "stream" in sample.labels]
    return {sample.name.removeprefix("sidmill_"): sample.value for sample in found}


def test_messages_that_are_not_read_are_the_lag_of_a_stream(lake: Lake, kafka_broker: KafkaBroker) -> None:
    topic = kafka_broker.topic()

    def send(count: int, user: str = "u") -> None:
        for number in range(count):
            event = {"user_id": user, "item_id": "a1", "event_time": f"2026-01-0{number + 1}"}
            kafka_broker.send(topic, json.dumps(event).encode(), number)

    send(3)
    assert lags(lake) == []
    nightly(lake.uri, None, [], [topic])
    assert [(each.address, each.messages) for each in lags(lake)] == [(topic, 0)]
    assert streams(lake) == {"lag_messages": 0, "lag_seconds": 0, "stream_messages_read": 3}
    send(2, "v")
    assert [(each.address, each.messages) for each in lags(lake)] == [(topic, 2)]
    now = streams(lake)
    assert (now["lag_messages"], now["stream_messages_read"]) == (2, 3)
    assert 0 < now["lag_seconds"] < 600
    assert problems(lake, WatchSpec(lag_messages=2)) == []
    (found,) = problems(lake, WatchSpec(lag_messages=1))
    assert found == Problem(f"lag {topic}", f"2 messages of {topic} are not read yet; the limit is 1 messages")
    assert lake.rows("interactions") == 3
    nightly(lake.uri, None, [], [topic])
    assert lake.rows("interactions") == 5
    assert lags(lake)[0].messages == 0


@pytest.mark.parametrize(
    ("limit", "problem"),
    [
        ("watch.production_hours=1e-9", "stale_production"),
        ("watch.night_hours=1e-9", "no_night"),
        ("watch.model_hours=1", "stale_model"),
        ('watch.source_hours={"s3://elsewhere"=1}', "stale_source s3://elsewhere"),
    ],
)
def test_each_limit_ends_the_check_with_its_own_exit_code(
    lake: Lake, limit: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["lake", "check", "--json", "--lake", lake.uri]
    assert run_command(command) == 0
    capsys.readouterr()
    assert run_command([*command, "--set", limit]) == 3
    assert [each["problem"] for each in json.loads(capsys.readouterr().out)] == [problem]


def test_a_stream_that_lags_ends_the_check_with_its_own_exit_code(lake: Lake, kafka_broker: KafkaBroker) -> None:
    topic = kafka_broker.topic()
    for number in range(2):
        kafka_broker.send(topic, b'{"user_id": "u", "item_id": "a1", "event_time": "2026-01-01"}', number)
        nightly(lake.uri, None, [], [topic]) if number == 0 else None
    command = ["lake", "check", "--lake", lake.uri, "--set"]
    assert run_command([*command, "watch.lag_messages=1"]) == 0
    assert run_command([*command, "watch.lag_messages=0"]) == 3
