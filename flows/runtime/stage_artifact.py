"""The progress of a stage as an artifact of the flow run, with the time that is left."""

import re
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext

from flows.runtime.progress import duration

EVERY_S = 10.0
"""Seconds between two updates. A stage that takes less has no artifact."""


class StageArtifact:
    """The artifact of one stage. It is made in the flow run of the thread that makes this object; without one, never.

    Prefect's pages are no part of the work: if the server cannot be reached the artifact stays as it is.
    """

    def __init__(self, stage: str, say: Callable[[str], None]) -> None:
        self._stage, self._say = stage, say
        self._wanted = FlowRunContext.get() is not None
        self._context, self._lock = copy_context(), threading.Lock()
        self._made: UUID | None = None
        self._next = time.monotonic() + EVERY_S

    def update(self, share: float, left_s: float | None, what: str) -> None:
        """Show that a share of the stage is done; `what` says of what, such as `1,024 of 8,535 rows`."""
        if self._wanted and time.monotonic() >= self._next:
            left = "" if left_s is None else f", about {duration(left_s)} left"
            self._show(100 * share, f"{self._stage}: {what}{left}")
            self._next = time.monotonic() + EVERY_S

    def end(self) -> None:
        """Show that the stage is done, if it has an artifact."""
        if self._made is not None:
            self._show(100.0, f"{self._stage}: done")

    def _show(self, percent: float, text: str) -> None:
        with self._lock:
            try:
                if self._made is None:
                    key = f"progress-{re.sub('[^a-z0-9]+', '-', self._stage.lower()).strip('-')}"
                    self._made = self._context.run(create_progress_artifact, percent, key, text)  # type: ignore[assignment]
                else:
                    self._context.run(update_progress_artifact, self._made, percent, text)
            except Exception as error:  # noqa: BLE001 - whatever the server or its client raises
                self._wanted, self._made = False, None
                self._say(f"  warning: the progress of {self._stage} is not shown in Prefect: {error}")
