"""Cancellation of a flow run in Prefect stops the work of its process, even without a Prefect worker.

A worker or `serve` ends the process of a cancelled run with a signal. A run started by `sidmill run` has no such
supervisor, so it polls the API for its own state and interrupts itself.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling

# Seconds between two polls of the state of the flow run.
POLL_S = 2.0
CANCEL = signal.SIGUSR1
"""Signal by which a run interrupts itself, and `sidmill run cancel` a run of this machine."""
_cancelled: set[UUID] = set()


@contextmanager
def stop_when_cancelled() -> Iterator[None]:
    """Interrupt the body (KeyboardInterrupt) if the surrounding flow run is cancelled."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    # A script that starts a run in the background has it ignore SIGINT.
    signal.signal(CANCEL, signal.default_int_handler)
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(context.flow_run.id, over), name="cancellation", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()


def _watch(flow_run: UUID, over: threading.Event) -> None:
    import httpx

    with get_client(sync_client=True) as client:
        while not over.wait(POLL_S):
            state = None
            with suppress(httpx.HTTPError, ObjectNotFound):  # a short outage must not end the run; polled again
                state = client.read_flow_run(flow_run).state
            if state is not None and state.is_cancelling():
                _cancelled.add(flow_run)
                if not over.is_set():
                    os.kill(os.getpid(), CANCEL)
                return


def report_cancelled(flow: Any, flow_run: Any, state: Any) -> None:
    """Hook that marks a cancelled run as Cancelled; Prefect by itself takes the interrupt for a crash."""
    if flow_run.id in _cancelled:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Cancelled(message="stopped by sidmill"), force=True)


def request_cancellation(flow_run: str) -> None:
    """Ask the Prefect server at PREFECT_API_URL to cancel a flow run."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(flow_run), Cancelling(message="sidmill run cancel"))
