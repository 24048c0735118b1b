"""Alerts: whoever is named in a recipe's [watch] is told of each problem once, and once when it is over."""

import json
import os
import shlex
import subprocess
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

FOLDER, FILE = "watch", "alerts.json"
WITHIN_S = 60.0
"""A hook that takes longer has failed."""


@dataclass(frozen=True)
class Alert:
    """A problem that began, or is over (`state` is "problem" or "recovered"); `since` is when it was seen first."""

    lake: str
    state: str
    problem: str
    message: str
    since: str

    @property
    def subject(self) -> str:
        return f"sidmill: {self.state}: {self.problem}"


Hook = Callable[[Alert], None]


def send_alerts(lake: Lake, watch: WatchSpec, found: list[Problem], by_watcher: bool = False) -> list[str]:
    """Tell the hooks what began and what is over since the last call; return the faults of hooks.

    Problems that only the watcher of `serve` sees go on if it is not `by_watcher`.

    What a hook was told is kept beside the lake's tables. After a fault all hooks are told again by the next call.
    """
    hooks, files = dict(_hooks(watch)), Files(f"{lake.uri}/{FOLDER}")
    if not hooks:
        return []
    told, faults = _told(files), list[str]()
    for alert in _changes(lake, told, found, by_watcher):
        failed = [fault for name, hook in hooks.items() if (fault := _fault(name, hook, alert))]
        faults += failed
        if failed:
            continue
        if alert.state == "problem":
            told[alert.problem] = {"since": alert.since, "message": alert.message}
        else:
            del told[alert.problem]
        files.write(FILE, json.dumps(told, sort_keys=True).encode())
    return faults


def _told(files: Files) -> dict[str, dict[str, str]]:
    try:
        found: dict[str, dict[str, str]] = json.loads(files.read(FILE))
    except FileNotFoundError:
        return {}
    return found


def _changes(lake: Lake, told: dict[str, dict[str, str]], found: list[Problem], by_watcher: bool) -> Iterator[Alert]:
    now = datetime.now(UTC).isoformat()
    names = {each.name for each in found}
    for name, before in sorted(told.items()):
        if name not in names and (by_watcher or not name.startswith(SEEN_BY_WATCHER)):
            yield Alert(lake.uri, "recovered", name, before["message"], before["since"])
    for each in found:
        if each.name not in told:
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


def _fault(name: str, hook: Hook, alert: Alert) -> str:
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
