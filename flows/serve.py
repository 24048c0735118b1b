"""Serve: a Prefect server with the nightly schedule, backfill with parameters, and training on each new release.

A server at PREFECT_API_URL is used; without one a server is started here and stopped with this process.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

READY_WITHIN_S = 180.0
HOST = "127.0.0.1"


class ServerNotReadyError(RuntimeError):
    """The Prefect server did not come up."""


def serve(
    lake: str, recipe: dict[str, Any] | None, items: list[str], interactions: list[str], cron: str, port: int
) -> None:
    """Serve until interrupted. `items` and `interactions` are the folders that each night looks into."""
    with prefect_server(port) as url:
        os.environ["PREFECT_API_URL"] = url
        print(f"Prefect server {url.removesuffix('/api')}; nights at {cron!r}; stop with Ctrl-C", flush=True)
        _serve_deployments(lake, recipe, items, interactions, cron)


@contextmanager
def prefect_server(port: int) -> Iterator[str]:
    """API URL of the server in use; one that is started here ends with the block."""
    if os.environ.get("PREFECT_API_URL"):
        yield os.environ["PREFECT_API_URL"]
        return
    url = f"http://{HOST}:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PREFECT_API_URL": url}
    )
    try:
        _wait_until_ready(url, server)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_ready(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServerNotReadyError(
                f"`prefect server start` ended with {server.returncode}; is the port taken? Choose another with "
                "--port, "
                "or name a running server in PREFECT_API_URL."
            )
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass  # not listening yet: asked again below until the deadline
        time.sleep(0.5)
    raise ServerNotReadyError(f"the Prefect server at {url} was not ready within {READY_WITHIN_S:.0f} s.")


def _serve_deployments(
    lake: str, recipe: dict[str, Any] | None, items: list[str], interactions: list[str], cron: str
) -> None:
    from prefect import serve as serve_flows
    from prefect.events import DeploymentEventTrigger

    from flows.backfill import backfill
    from flows.nightly import nightly
    from flows.steps.publish import PUBLISHED_EVENT
    from flows.train import train

    common = {"lake": lake, "recipe": recipe}
    trigger = DeploymentEventTrigger(
        name="train on a published release",
        expect={PUBLISHED_EVENT},
        match={"sidmill.lake": lake},
        parameters={"release": "{{ event.payload.release }}"},
    )
    serve_flows(
        nightly.to_deployment(
            "nightly", cron=cron, parameters={**common, "items": items, "interactions": interactions}
        ),
        backfill.to_deployment("backfill", parameters=common),
        train.to_deployment("train", parameters=common, triggers=[trigger]),
        print_starting_message=False,
    )
