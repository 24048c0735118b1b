"""Alerts: each problem is told once to all hooks, and once when it is over; a hook that fails is told again."""

import json
import sys
import time
from pathlib import Path

import pytest
from receiver import Receiver

from flows.watch import alerts
from flows.watch.alerts import send_alerts
from flows.watch.health import Problem
from flows.watch.spec import WatchSpec
from storage.lake import Lake

BROKEN = [Problem("failed nightly", "it failed")]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def command_into(path: Path) -> str:
    return f"{sys.executable} -c \"import sys; open('{path}', 'a').write(sys.stdin.read())\""


def told(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_problem_is_told_once_and_once_when_it_is_over(
    lake: Lake, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", receiver.address)
    watch = WatchSpec(alert_command=command_into(tmp_path / "told"), alert_webhook_variable="HOOK")
    for found in (BROKEN, [Problem("failed nightly", "it failed again")], [], []):
        assert send_alerts(lake, watch, found) == []
    lines = told(tmp_path / "told")
    assert [(line["state"], line["problem"], line["message"]) for line in lines] == [
        ("problem", "failed nightly", "it failed"),
        ("recovered", "failed nightly", "it failed"),
    ]
    assert lines[0]["since"] == lines[1]["since"]
    text = f"problem: it failed (lake {lake.uri}, since {lines[0]['since']})"
    assert receiver.got == [{**lines[0], "text": text}, {**lines[1], "text": text.replace("problem:", "recovered:")}]


def test_what_is_over_is_told_before_what_began_and_each_alert_alone(lake: Lake, tmp_path: Path) -> None:
    watch = WatchSpec(alert_command=command_into(tmp_path / "told"))
    b, a, c = (Problem(name, f"{name} is wrong") for name in "bac")
    for found in ([b, a], [c]):
        send_alerts(lake, watch, found)
    assert [(line["state"], line["problem"]) for line in told(tmp_path / "told")] == [
        ("problem", "b"),
        ("problem", "a"),
        ("recovered", "a"),
        ("recovered", "b"),
        ("problem", "c"),
    ]


def test_a_run_does_not_take_a_problem_of_a_source_for_over_because_it_did_not_look(lake: Lake, tmp_path: Path) -> None:
    watch, broken = (
        WatchSpec(alert_command=command_into(tmp_path / "told")),
        [Problem("source s3://x", "unreadable")],
    )
    send_alerts(lake, watch, broken, by_watcher=True)
    send_alerts(lake, watch, [])  # as at the end of a run
    send_alerts(lake, watch, broken, by_watcher=True)
    send_alerts(lake, watch, [], by_watcher=True)
    assert [line["state"] for line in told(tmp_path / "told")] == ["problem", "recovered"]


def test_a_hook_that_fails_is_told_and_tried_again_and_shows_no_secret(
    lake: Lake, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = WatchSpec(alert_webhook_variable="HOOK")
    (fault,) = send_alerts(lake, watch, BROKEN)
    assert "the environment variable HOOK is not set" in fault
    monkeypatch.setenv("HOOK", f"{receiver.address}/t0k3n")
    receiver.status = 500
    (fault,) = send_alerts(lake, watch, BROKEN)
    assert "the webhook in HOOK failed" in fault
    assert "t0k3n" not in fault
    receiver.status = 200
    assert send_alerts(lake, watch, BROKEN) == []
    assert send_alerts(lake, watch, BROKEN) == []
    assert len(receiver.got) == 2


def test_an_alert_that_one_hook_did_not_get_is_sent_again_and_the_others_are_not_held_up(
    lake: Lake, tmp_path: Path
) -> None:
    """The command refuses the alert of one problem, and writes down the others."""
    script, both = tmp_path / "hook.py", [Problem("refused", "r"), Problem("taken", "t")]
    script.write_text(
        "import json, sys\nalert = json.load(sys.stdin)\nprint('noise')\n"
        f"open({str(tmp_path / 'told')!r}, 'a').write(json.dumps(alert) + '\\n')\n"
        "sys.exit(alert['problem'] == 'refused')\n"
    )
    watch = WatchSpec(alert_command=f"{sys.executable} {script}")
    for _ in range(2):
        (fault,) = send_alerts(lake, watch, both)
        assert fault.startswith("watch.alert_command: the alert 'sidmill: problem: refused' was not sent: ")
        assert "returned non-zero exit status 1" in fault
    assert [line["problem"] for line in told(tmp_path / "told")] == ["refused", "taken", "refused"]


def test_a_hook_that_takes_too_long_has_failed_and_what_a_command_prints_is_not_shown(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], receiver: Receiver
) -> None:
    monkeypatch.setenv("HOOK", receiver.address)
    assert send_alerts(lake, WatchSpec(alert_command="echo noise"), BROKEN) == []
    assert capfd.readouterr().out == ""
    monkeypatch.setattr(alerts, "WITHIN_S", 0.3)
    receiver.seconds = 1
    command, webhook = send_alerts(lake, WatchSpec(alert_command="sleep 9", alert_webhook_variable="HOOK"), [])
    assert "timed out after" in command
    assert "the webhook in HOOK failed: timed out" in webhook


def test_without_a_hook_nothing_is_kept_and_with_one_no_secret_is(lake: Lake, tmp_path: Path) -> None:
    secret = [Problem("stale_source", "nothing of s3://key:t0k3n@bucket/log was read")]
    assert send_alerts(lake, WatchSpec(), secret) == []
    assert not Path(lake.uri).exists()
    send_alerts(lake, WatchSpec(alert_command=command_into(tmp_path / "told")), secret)
    assert "t0k3n" not in (tmp_path / "told").read_text() + (Path(lake.uri) / "watch" / "alerts.json").read_text()


def test_a_hook_that_hangs_holds_up_further_alerts_alone(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "PATIENCE_S", 0.2)
    monkeypatch.setattr(alerts, "WITHIN_S", 3)
    sender = alerts.AlertSender()
    began = time.monotonic()
    assert [sender.send(lake, WatchSpec(alert_command="sleep 9"), BROKEN) for _ in range(3)] == [[], [], []]
    assert time.monotonic() - began < 2
    path, faults = tmp_path / "told", list[str]()
    while not path.exists() and time.monotonic() - began < 60:
        faults += sender.send(lake, WatchSpec(alert_command=command_into(path)), BROKEN)
        time.sleep(0.2)
    assert [each["problem"] for each in told(path)] == ["failed nightly"]
    (fault,) = faults
    assert "timed out" in fault
