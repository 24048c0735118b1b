"""Serve: a Prefect server with nights on a schedule and for news, training on each release, backfills, housekeeping."""

import asyncio
import os
import threading
import warnings
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.events import DeploymentEventTrigger, emit_event
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.runner import Runner
from prefect.schedules import Cron

from flows.backfill import backfill
from flows.gc import gc
from flows.inspect.lake_state import lake_state
from flows.nightly import nightly
from flows.recipe import Recipe, load_recipe, parse_recipe
from flows.runtime.server import CLIENT_LOGIN, SERVER_LOGIN, ensure_server, login_file
from flows.runtime.terminal import printable
from flows.steps.publish import PUBLISHED_EVENT
from flows.train import evaluate, train
from flows.watch.alerts import AlertSender
from flows.watch.due import refit_due
from flows.watch.health import NIGHT, UNANSWERED, Problem, problems
from flows.watch.metrics import serve_metrics
from flows.watch.missed import missed_night
from flows.watch.news import REPEAT, Trigger, news
from infra.addresses import without_secrets
from pipelines.sources.protocol import Spec
from storage.lake import Lake
from storage.releases.releases import PRODUCTION, published, read_release
from storage.runs.beats import Beat, beats
from storage.runs.record import runs

SNAPSHOT_EVENT = "sidmill.snapshot"
"""Event that starts a night; the resource has the label `sidmill.lake`, and the payload may name a `snapshot`."""
REFIT_EVENT = "sidmill.refit.due"
"""Event that starts a backfill, because gates say that production has outgrown its codebook."""
ENDING_S = 60
"""Most seconds for which runs may end after SIGTERM."""
FLOWS = ("nightly", "backfill", "train", "evaluate", "gc")
"""Flows with a deployment."""
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
"""A run that is asked for while another one of its kind runs is dropped: the watcher asks again where news is left."""


@dataclass(frozen=True)
class Served:
    """Settings of what is served: a lake, the sources of its nights, their times, and how often the watcher looks.

    Without a recipe, every run uses that of the release it starts from; `overrides` apply to all runs started here and
    are not stored in a release. `every` is 0 for no watcher, `metrics_port` 0 for no metrics. With a `name`, the
    deployments have that name; without one, each has the name of its flow. `gc_cron` and `evaluate_cron` are "" for no
    schedule. With `catch_up` the watcher asks for a night where one of the schedule did not begin, and with `refit` for
    a backfill where gates say that production is due for one.
    """

    lake: str
    recipe: dict[str, Any] | None
    items: list[str]
    interactions: list[str]
    cron: str
    timezone: str
    overrides: list[str]
    every: float = 60.0
    metrics_port: int = 0
    name: str = ""
    gc_cron: str = ""
    evaluate_cron: str = ""
    catch_up: bool = True
    refit: bool = False


def serve(served: Served, port: int) -> None:
    """Serve until interrupted, on the configured Prefect server or on one started here."""
    given = os.environ.get(SERVER_LOGIN) or os.environ.get(CLIENT_LOGIN)
    for line in lake_state(Lake(served.lake)).lines:
        print(printable(line), flush=True)
    url = ensure_server(port, with_services=True)
    _require_free_names(served)
    print(
        f"Prefect server {url.removesuffix('/api')}; nightly runs at {served.cron!r} ({served.timezone}); stop with "
        "Ctrl-C",
        flush=True,
    )
    if not given and os.environ.get(SERVER_LOGIN):
        print(
            f"The login for its web page is the line in {login_file()}. To use the server in another shell:\n"
            f'  export PREFECT_API_URL={url} {CLIENT_LOGIN}="$(cat {login_file()})"',
            flush=True,
        )
    if served.metrics_port:
        watch = _recipe(served).watch
        print(f"metrics at {serve_metrics(Lake(served.lake), watch, served.metrics_port)}", flush=True)
    if served.every:
        watcher = threading.Thread(target=Watcher(served).watch, name="watcher", daemon=True)
        watcher.start()
    # Prefect's handler of SIGTERM calls a coroutine that it does not await, and then exits.
    warnings.filterwarnings("ignore", r"coroutine 'Runner\.astop' was never awaited", RuntimeWarning)
    runner = ServiceRunner()
    for deployment in _deployments(served):
        runner.add_deployment(deployment)
    with suppress(KeyboardInterrupt, TerminationSignal):
        asyncio.run(runner.start())


class ServiceRunner(Runner):
    """Prefect's runner, but at SIGTERM its runs end as cancelled before it does: it would kill them."""

    def handle_sigterm(self, *arguments: Any, **named: Any) -> None:
        started = []
        for each in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                if "prefect.engine" in each.cmdline():
                    each.terminate()
                    started.append(each)
        psutil.wait_procs(started, ENDING_S)
        super().handle_sigterm(*arguments, **named)


class NameTaken(ValueError):
    """Raised if the Prefect server has deployments of the names that others run."""


def _require_free_names(served: Served) -> None:
    """Refuse names of deployments of a work pool, and of nights that are served for another lake.

    Prefect would take them over in part: runs of the workers' deployments would fail here, and nights of the other lake
    would end.
    """
    with get_client(sync_client=True) as client:
        for flow in FLOWS:
            name = f"{flow}/{served.name or flow}"
            try:
                found = client.read_deployment_by_name(name)
            except ObjectNotFound:
                continue
            lake = (found.parameters or {}).get("lake")
            if found.work_pool_name:
                whose = f"by workers of the work pool {found.work_pool_name!r}"
            elif lake != served.lake and any(schedule.active for schedule in found.schedules):
                whose = f"for the lake {lake}"
            else:
                continue
            raise NameTaken(
                f"the Prefect server has a deployment {name!r} already, which is run {whose}. Give the deployments of "
                f"this command another name with --name, or delete that one with `prefect deployment delete {name}`."
            )


def _deployments(served: Served) -> list[Any]:
    common = {"lake": served.lake, "recipe": served.recipe}
    judged = {**common, "overrides": served.overrides}
    nights = {**judged, "items": served.items, "interactions": served.interactions}
    for_lake = {"sidmill.lake": served.lake}
    on_snapshot = DeploymentEventTrigger(
        name="night for a snapshot",
        expect={SNAPSHOT_EVENT},
        match=for_lake,
        parameters={"snapshot": "{{ event.payload.snapshot | default(none) }}"},
    )
    on_release = DeploymentEventTrigger(
        name="train on a published release",
        expect={PUBLISHED_EVENT},
        match=for_lake,
        parameters={"release": "{{ event.payload.release }}"},
    )
    on_refit = DeploymentEventTrigger(name="backfill when it is due", expect={REFIT_EVENT}, match=for_lake)

    def times(cron: str, slug: str) -> Any:
        return Cron(cron, timezone=served.timezone, slug=slug) if cron else None

    return [  # `to_deployment` is typed for both its synchronous and its asynchronous form
        nightly.to_deployment(
            served.name or "nightly",
            schedule=times(served.cron, "every-night"),
            parameters=nights,
            triggers=[on_snapshot],
            concurrency_limit=ONE_AT_A_TIME,
        ),
        backfill.to_deployment(served.name or "backfill", parameters=judged, triggers=[on_refit]),
        train.to_deployment(
            served.name or "train", parameters=judged, triggers=[on_release], concurrency_limit=ONE_AT_A_TIME
        ),
        evaluate.to_deployment(
            served.name or "evaluate", schedule=times(served.evaluate_cron, "evaluate"), parameters=common
        ),
        gc.to_deployment(
            served.name or "gc",
            schedule=times(served.gc_cron, "gc"),
            parameters=common,
            concurrency_limit=ONE_AT_A_TIME,
        ),
    ]


def _recipe(served: Served) -> Recipe:
    lake = Lake(served.lake)
    if served.recipe is None and published(lake):
        return load_recipe(None, served.overrides, read_release(lake, PRODUCTION).recipe)
    return load_recipe(None, served.overrides, parse_recipe(served.recipe or {}).model_dump(mode="json"))


class Watcher:
    """Looks at the sources and the lake from time to time: asks for runs, and tells of problems."""

    def __init__(self, served: Served) -> None:
        self._served, self._lake = served, Lake(served.lake)
        self._night = Trigger(self._ask_for_night)
        self._training = Trigger(self._ask_for_training, later=True)
        self._asked: dict[str, tuple[str, datetime]] = {}
        self._alerts = AlertSender()

    def watch(self) -> None:
        """Look until the process ends. A look that fails is told and does not end the others."""
        pause = threading.Event()
        while not pause.wait(self._served.every):
            try:
                for line in self.look():
                    print(f"warning: {printable(without_secrets(line))}", flush=True)
            except Exception as error:  # noqa: BLE001 - a store that is away for a while must not end the watch
                print(f"warning: the watcher: {printable(without_secrets(str(error)))}", flush=True)

    def look(self) -> list[str]:
        """Look once; return what should be told."""
        recipe = _recipe(self._served)
        wanted: dict[str, tuple[list[str], Spec]] = {
            "items": (self._served.items, recipe.items),
            "interactions": (self._served.interactions, recipe.interactions),
        }
        found = news(self._lake, wanted)
        ends = beats(self._lake)
        self._night.look(found.digest, ends.get(NIGHT))
        current = published(self._lake)
        self._training.look(current.release if current else "", ends.get("train"))
        if self._served.refit:
            self._look_for_refit(ends.get("backfill"))
        if self._served.catch_up:
            self._look_for_missed_night()
        seen = [*found.problems, *self._unanswered()]
        if not recipe.watch.alerts:
            return [each.message for each in seen]
        return self._alerts.send(self._lake, recipe.watch, [*problems(self._lake, recipe.watch), *seen])

    def _look_for_refit(self, end: Beat | None) -> None:
        due = refit_due(self._lake)
        if due and self._may_ask("backfill", due, end):
            self._emit(REFIT_EVENT, due)

    def _look_for_missed_night(self) -> None:
        missed = missed_night(self._lake, self._served.cron, self._served.timezone, datetime.now(UTC))
        if missed is not None and self._may_ask(NIGHT, f"{missed:%Y-%m-%d %H:%M} UTC", None):
            self._emit(SNAPSHOT_EVENT, f"no night began at {missed:%Y-%m-%d %H:%M} UTC, as the schedule has it")

    def _may_ask(self, kind: str, why: str, end: Beat | None) -> bool:
        """Return whether to ask for a run: none is running, and none was asked for this of late, or ended since."""
        now = datetime.now(UTC)
        before, asked = self._asked.get(kind, ("", None))
        if asked is not None and before == why and (now - asked < REPEAT or (end is not None and end.at > asked)):
            return False
        if self._is_running(kind):
            return False
        self._asked[kind] = why, now
        return True

    def _is_running(self, kind: str) -> bool:
        return any(run.kind == kind and run.state == "running" for run in runs(self._lake))

    def _unanswered(self) -> list[Problem]:
        """Return the problem that nights are asked for and none comes, though none is running."""
        if not self._night.unanswered or self._is_running(NIGHT):
            return []
        minutes = REPEAT.total_seconds() / 60
        message = (
            f"there is news and a night was asked for, but for {minutes:.0f} minutes none has ended and none runs: "
            "look at the flow runs of the deployment `nightly` on the page of the Prefect server"
        )
        return [Problem(UNANSWERED, message)]

    def _ask_for_night(self) -> None:
        self._emit(SNAPSHOT_EVENT, "there is news, a night is asked for")

    def _ask_for_training(self) -> None:
        current = published(self._lake)
        if current is not None:
            payload = {"lake": self._served.lake, "release": current.release}
            self._emit(PUBLISHED_EVENT, f"a training of {current.release} is asked for", payload)

    def _emit(self, event: str, why: str, payload: dict[str, str] | None = None) -> None:
        """Say why a run is asked for, and ask for it."""
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {printable(why)}", flush=True)
        resource = {"prefect.resource.id": "sidmill.watcher", "sidmill.lake": self._served.lake}
        emit_event(event, resource=resource, payload=payload)
