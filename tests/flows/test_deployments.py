"""What `serve` deploys: the form of each flow in Prefect, and the same deployments for a work pool."""

import asyncio
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.server.events.actions import RunDeployment
from prefect.server.events.schemas.automations import TriggeredAction
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.types._datetime import now
from prefect.utilities.callables import parameter_schema
from prefect.utilities.templating import apply_values

from flows.backfill import backfill
from flows.gc import gc
from flows.nightly import nightly
from flows.serve import FLOWS, SNAPSHOT_EVENT, Served, _deployments
from flows.train import evaluate, train

ROOT = Path(__file__).resolve().parents[2]
POOL = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]
SERVED = Served(
    "lake", None, ["items"], ["log"], "0 3 * * *", "UTC", [], gc_cron="0 5 * * *", evaluate_cron="0 6 * * 1"
)


@pytest.mark.parametrize("deployed", [nightly, backfill, train, evaluate, gc], ids=lambda flow: flow.name)
def test_the_form_of_a_run_describes_each_parameter(deployed: Any) -> None:
    properties = parameter_schema(deployed).properties
    assert [name for name, field in properties.items() if not field.get("description")] == []


def test_a_pool_gets_the_deployments_schedules_triggers_and_limits_of_serve() -> None:
    made = [
        {
            "name": each.name,
            "schedules": [(found.slug, found.schedule.cron, found.schedule.timezone) for found in each.schedules or []],
            "expect": [event for trigger in each.triggers for event in trigger.expect],
            "match": [list(trigger.match.model_dump()) for trigger in each.triggers],
            "parameters": [trigger.parameters for trigger in each.triggers],
            "limit": (each.concurrency_limit, str(getattr(each.concurrency_options, "collision_strategy", None))),
        }
        for each in _deployments(SERVED)
    ]
    declared = [
        {
            "name": each["name"],
            "schedules": [tuple(found.values()) for found in each.get("schedules", [])],
            "expect": [event for trigger in each.get("triggers", []) for event in trigger["expect"]],
            "match": [list(trigger["match"]) for trigger in each.get("triggers", [])],
            "parameters": [trigger.get("parameters") for trigger in each.get("triggers", [])],
            "limit": _limit(each.get("concurrency_limit")),
        }
        for each in POOL
    ]
    assert made == declared
    assert [each["name"] for each in made] == list(FLOWS)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [({"snapshot": "s3://bucket/items@v12"}, "s3://bucket/items@v12"), ({}, None), ({"other": 1}, None)],
)
def test_the_payload_of_an_event_gives_a_night_its_snapshot(payload: dict[str, Any], expected: str | None) -> None:
    """Prefect renders the templates of `serve` and of the pool; an event without a snapshot gives none."""
    event = ReceivedEvent(
        id=uuid4(),
        occurred=now("UTC"),
        event=SNAPSHOT_EVENT,
        resource={"prefect.resource.id": "r", "sidmill.lake": "lake"},
        payload=payload,
    )
    known: dict[str, Any] = {"triggering_event": event, "automation": None, "triggering_labels": {}}
    action = TriggeredAction.model_construct(**known)
    values = {"$SIDMILL_LAKE": "lake"}
    pool: Any = apply_values(next(each for each in POOL if each["name"] == "nightly")["triggers"], values, False)
    for trigger in (pool[0]["parameters"], _deployments(SERVED)[0].triggers[0].parameters):
        run = RunDeployment(source="selected", deployment_id=uuid4(), parameters=trigger)
        assert asyncio.run(run.render_parameters(action)) == {"snapshot": expected}


def _limit(declared: dict[str, Any] | None) -> tuple[int | None, str]:
    return (
        (declared["limit"], f"ConcurrencyLimitStrategy.{declared['collision_strategy']}")
        if declared
        else (None, "None")
    )


@pytest.mark.parametrize("declared", POOL, ids=lambda each: each["name"])
def test_a_deployment_of_the_pool_names_a_flow_and_its_parameters(declared: dict[str, Any]) -> None:
    module, _, name = declared["entrypoint"].rpartition(".")
    flow = getattr(import_module(module), name)
    named = {*declared["parameters"]}.union(*(each.get("parameters", {}) for each in declared.get("triggers", [])))
    assert named <= parameter_schema(flow).properties.keys()
