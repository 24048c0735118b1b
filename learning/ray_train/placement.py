"""Release of the workers' CPUs after a failed training, so that the next attempt can use them."""

from __future__ import annotations

from typing import Any

# Only Ray's internal callbacks see the worker group; the version of Ray is pinned.
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback


class ReleasePlacement(ControllerCallback, WorkerGroupCallback):  # type: ignore[misc]
    """A callback that removes the placement group of a training when its controller shuts down.

    Ray 2.60 loses track of the group when, in the last step of the start, a worker dies or cannot unpickle its
    function. The CPUs then stay reserved as long as the driver lives: on a cluster of three CPUs the next attempt of
    two workers waited for them without end.
    """

    def __init__(self) -> None:
        self._held: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Store the placement group of the workers."""
        self._held = worker_group.get_worker_group_state().placement_group_handle

    async def before_controller_shutdown(self) -> None:
        """Remove the placement group; does nothing if it is gone."""
        if self._held is not None:
            self._held.shutdown()
