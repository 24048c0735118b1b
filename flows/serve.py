"""Serve: a Prefect server with scheduled nights, backfills on request, and training on each published release."""

import os
from typing import Any

from prefect import serve as serve_flows
from prefect.events import DeploymentEventTrigger

from flows.backfill import backfill
from flows.inspect.lake_state import lake_state
from flows.nightly import nightly
from flows.runtime.server import CLIENT_LOGIN, SERVER_LOGIN, ensure_server, login_file
from flows.runtime.terminal import printable
from flows.steps.publish import PUBLISHED_EVENT
from flows.train import train
from storage.lake import Lake


def serve(
    lake: str,
    recipe: dict[str, Any] | None,
    items: list[str],
    interactions: list[str],
    cron: str,
    port: int,
    overrides: list[str],
) -> None:
    """Serve until interrupted, on the configured Prefect server or on one started here.

    `items` and `interactions` are the files or folders that each night reads. Without a recipe, every run uses that of
    the release it starts from; `overrides` apply to all runs started here and are not stored in a release.
    """
    given = os.environ.get(SERVER_LOGIN) or os.environ.get(CLIENT_LOGIN)
    for line in lake_state(Lake(lake)).lines:
        print(printable(line), flush=True)
    url = ensure_server(port, with_services=True)
    print(f"Prefect server {url.removesuffix('/api')}; nightly runs at {cron!r}; stop with Ctrl-C", flush=True)
    if not given and os.environ.get(SERVER_LOGIN):
        print(
            f"The login for its web page is the line in {login_file()}. To use the server in another shell:\n"
            f'  export PREFECT_API_URL={url} {CLIENT_LOGIN}="$(cat {login_file()})"',
            flush=True,
        )
    common = {"lake": lake, "recipe": recipe}
    trigger = DeploymentEventTrigger(
        name="train on a published release",
        expect={PUBLISHED_EVENT},
        match={"sidmill.lake": lake},
        parameters={"release": "{{ event.payload.release }}"},
    )
    judged = {**common, "overrides": overrides}
    nights = {**judged, "items": items, "interactions": interactions}
    deployments: list[Any] = [  # `to_deployment` is typed for both its synchronous and its asynchronous form
        nightly.to_deployment("nightly", cron=cron, parameters=nights),
        backfill.to_deployment("backfill", parameters=judged),
        train.to_deployment("train", parameters=judged, triggers=[trigger]),
    ]
    serve_flows(*deployments, print_starting_message=False)
