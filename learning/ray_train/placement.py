"""Gives the workers' CPUs back when a training ends badly, so that the next attempt finds them free."""

from __future__ import annotations

from typing import Any

# Only the callbacks Ray keeps to itself see the worker group; the version of Ray is pinned.
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback


class ReleasePlacement(ControllerCallback, WorkerGroupCallback):  # type: ignore[misc]
    """Removes the placement group of a training when its controller shuts down.

    Ray 2.60 forgets the group when a worker dies, or cannot unpickle its function, in the last step of the start: the
    CPUs stay reserved as long as the driver lives, and on a cluster of three CPUs the next attempt of two workers
    waited for them without end.
    """

    def __init__(self) -> None:
        self._held: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Remember where the workers are placed."""
        self._held = worker_group.get_worker_group_state().placement_group_handle

    async def before_controller_shutdown(self) -> None:
        """Remove the placement; one that is removed already stays so."""
        if self._held is not None:
            self._held.shutdown()
