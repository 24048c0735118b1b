"""Verbs of `sidmill run` for runs that the lake has a record of: list, show, resume, cancel."""

import os
import socket
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

from cyclopts import Parameter

from flows.cli.options import AsJson, Common
from flows.cli.start import get_ready
from storage.errors import LakeError

RunId = Annotated[str, Parameter(name="RUN")]


def list_runs(*, as_json: AsJson = False, common: Common = Common()) -> None:
    """List the runs that changed the lake or failed, newest last."""
    from flows.cli import show
    from storage.runs.record import runs

    show.runs(runs(common.existing()), as_json)


def show_run(run: RunId, /, *, as_json: AsJson = False, common: Common = Common()) -> None:
    """Show one run: its parameters, its stages and how it ended.

    $ sidmill run show nightly-20260301T030000-4f2a9c

    Args:
        run: Run id, as `sidmill run list` shows it.
    """
    from flows.cli import show
    from storage.runs.record import read_run

    show.run(read_run(common.existing(), run), as_json)


def resume(run: RunId, /, *, common: Common = Common()) -> None:
    """Start a run again with its parameters. What it has committed is not done twice.

    Args:
        run: Run id, as `sidmill run list` shows it.
    """
    from storage.runs.record import read_run

    lake = common.existing()
    found = read_run(lake, run)
    if found.state == "running":
        raise LakeError(f"{found.run} is still running; stop it with `sidmill run cancel {found.run}`.")
    get_ready(_module(found.kind), cluster=None)
    _flow(found.kind)(lake=lake.uri, **found.parameters)


def _module(kind: str) -> str:
    """Return the module of the flow of a kind of run."""
    return "flows." + {"evaluate": "train"}.get(kind, kind)


def _flow(kind: str) -> Callable[..., Any]:
    flow: Callable[..., Any] = getattr(import_module(_module(kind)), kind)
    return flow


def cancel(run: RunId, /, *, common: Common = Common()) -> None:
    """Stop a run and its work on the cluster.

    A process on this machine is interrupted. For a run on another machine,
    Prefect is asked to cancel it.

    Args:
        run: Run id, as `sidmill run list` shows it.
    """
    from flows.runtime.cancellation import CANCEL, request_cancellation
    from storage.runs.record import read_run

    found = read_run(common.existing(), run)
    if found.state != "running":
        raise LakeError(f"{found.run} is {found.state}; there is nothing to cancel.")
    if found.host == socket.gethostname():
        os.kill(found.pid, CANCEL)
        print(f"{found.run}: interrupted (process {found.pid})")
        return
    request_cancellation(found.flow_run)
    print(f"{found.run}: Prefect was asked to cancel its flow run {found.flow_run}")
