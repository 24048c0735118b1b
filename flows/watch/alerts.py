"""Sends one alert when a problem begins and one when it ends, to the hooks in [watch]."""

import json
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from flows.watch.health import SEEN_BY_WATCHER, Problem
from flows.watch.spec import WatchSpec
from infra.addresses import without_secrets
from storage.files.store import Files
from storage.lake import Lake
from storage.retention.garbage import ALERTS

FILE = "alerts.json"
WITHIN_S = 60.0
"""Seconds after which a hook counts as failed."""
PATIENCE_S = 5.0
"""Seconds for which a watcher waits for its hooks before it goes on."""


@dataclass(frozen=True)
class Alert:
    """A problem that began or ended (`state` is "problem" or "recovered"); `since` is the time it was first seen."""

    lake: str
    state: str
    problem: str
    message: str
    since: str

    @property
    def subject(self) -> str:
        return f"sidmill: {self.state}: {self.problem}"


Hook = Callable[[Alert], None]


def send_alerts(lake: Lake, watch: WatchSpec, problems: list[Problem], by_watcher: bool = False) -> list[str]:
    """Send alerts for problems that began or ended since the last call; return hook failures.

    `by_watcher` marks a call from the watcher of `serve`. A call that is not from the watcher never ends a problem that
    only the watcher sees.

    The open problems are stored beside the lake's tables. After a failure the next call sends the alert to all hooks
    again.
    """
    hooks, files = dict(_hooks(watch)), Files(f"{lake.uri}/{ALERTS}")
    if not hooks:
        return []
    open_problems, failures = _open_problems(files), list[str]()
    for alert in _changes(lake, open_problems, problems, by_watcher):
        failed = [failure for name, hook in hooks.items() if (failure := _failure(name, hook, alert))]
        failures += failed
        if failed:
            continue
        if alert.state == "problem":
            open_problems[alert.problem] = {"since": alert.since, "message": alert.message}
        else:
            del open_problems[alert.problem]
        files.write(FILE, json.dumps(open_problems, sort_keys=True).encode())
    return failures


class AlertSender:
    """Sends the alerts of a watcher in a thread, so that a hook that hangs holds up nothing but further alerts."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failures: list[str] = []

    def send(self, lake: Lake, watch: WatchSpec, problems: list[Problem]) -> list[str]:
        """Send alerts as `send_alerts` does; return the failures of hooks that have ended.

        While a hook goes on, nothing is sent: the call after its end sends what is due then.
        """
        if self._thread is not None and self._thread.is_alive():
            return []
        before = self._take_failures()
        self._thread = threading.Thread(target=self._send, args=(lake, watch, problems), name="alerts", daemon=True)
        self._thread.start()
        self._thread.join(PATIENCE_S)
        return before if self._thread.is_alive() else before + self._take_failures()

    def _take_failures(self) -> list[str]:
        taken, self._failures = self._failures, []
        return taken

    def _send(self, lake: Lake, watch: WatchSpec, problems: list[Problem]) -> None:
        try:
            self._failures = send_alerts(lake, watch, problems, by_watcher=True)
        except Exception as error:  # noqa: BLE001 - a store that is away for a while must not end the watch
            self._failures = [f"no alert was sent: {without_secrets(str(error))}"]


def _open_problems(files: Files) -> dict[str, dict[str, str]]:
    try:
        stored: dict[str, dict[str, str]] = json.loads(files.read(FILE))
    except FileNotFoundError:
        return {}
    return stored


def _changes(
    lake: Lake, open_problems: dict[str, dict[str, str]], problems: list[Problem], by_watcher: bool
) -> Iterator[Alert]:
    now = datetime.now(UTC).isoformat()
    names = {each.name for each in problems}
    for name, before in sorted(open_problems.items()):
        if name not in names and (by_watcher or not name.startswith(SEEN_BY_WATCHER)):
            yield Alert(lake.uri, "recovered", name, before["message"], before["since"])
    for each in problems:
        if each.name not in open_problems:
            yield Alert(lake.uri, "problem", each.name, without_secrets(each.message), now)


def _hooks(watch: WatchSpec) -> Iterator[tuple[str, Hook]]:
    if watch.alert_command:
        command = watch.alert_command
        yield "watch.alert_command", lambda alert: _run(command, alert)
    if watch.alert_webhook_variable:
        variable = watch.alert_webhook_variable
        yield "watch.alert_webhook_variable", lambda alert: _post(variable, alert)
    if watch.alert_block:
        block = watch.alert_block
        yield "watch.alert_block", lambda alert: _notify(block, alert)


def _failure(name: str, hook: Hook, alert: Alert) -> str:
    """Return why a hook failed; "" if it did not."""
    try:
        hook(alert)
    except Exception as error:  # noqa: BLE001 - a hook is foreign code, and its failure must not end what it reports on
        return f"{name}: the alert {alert.subject!r} was not sent: {without_secrets(str(error))}"
    return ""


def _run(command: str, alert: Alert) -> None:
    """Run a command with the alert as JSON on its standard input."""
    subprocess.run(
        shlex.split(command),
        input=json.dumps(asdict(alert)) + "\n",
        text=True,
        check=True,
        timeout=WITHIN_S,
        stdout=subprocess.DEVNULL,
    )


def _post(variable: str, alert: Alert) -> None:
    """Send the alert as JSON to the address in a variable of the environment: such addresses are secrets."""
    address = os.environ.get(variable)
    if not address:
        raise ValueError(f"the environment variable {variable} is not set to the address of the webhook")
    try:
        httpx.post(address, json={**asdict(alert), "text": _text(alert)}, timeout=WITHIN_S).raise_for_status()
    except httpx.HTTPError as error:
        raise ValueError(f"the webhook in {variable} failed: {_without(address, str(error))}") from None


def _without(address: str, text: str) -> str:
    return text.replace(address, "its address")


def _notify(name: str, alert: Alert) -> None:
    """Notify by a block of the Prefect server, such as `slack-webhook/operators`."""
    import prefect.blocks.notifications  # noqa: F401 - registers the types of blocks
    from prefect.blocks.core import Block

    block: Any = Block.load(name)
    block.notify(body=_text(alert), subject=alert.subject)


def _text(alert: Alert) -> str:
    return f"{alert.state}: {alert.message} (lake {alert.lake}, since {alert.since})"
