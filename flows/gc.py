"""Gc: retire old releases and remove what nothing needs, as a run of a schedule. By hand it is `sidmill lake gc`."""

from datetime import timedelta
from typing import Any

from prefect import flow

from flows.inspect.collected import lines
from flows.runtime.cancellation import report_cancelled
from flows.runtime.run import open_run
from learning.progress import progress_listener
from storage.lake import Lake
from storage.releases.releases import PRODUCTION, read_release
from storage.retention.collect import collect
from storage.retention.policy import Policy


@flow(name="gc", log_prints=False, on_crashed=[report_cancelled])
def gc(
    lake: str, recipe: str | dict[str, Any] | None = None, keep: int = 10, grace_hours: float = 168.0
) -> dict[str, Any]:
    """Retire releases and models that nothing keeps, and remove the files that nothing needs any more.

    Only a failure is recorded as a run; each end leaves a sign of life, with what was removed.

    Args:
        lake: Folder or object-store address of the lake.
        recipe: A recipe, whose [watch] says who is told of a failure. Default: production's.
        keep: Keep this many releases that were published last, and as many that were made last.
        grace_hours: Keep what was written, retired or replaced within this time: readers may still use it.
    """
    policy = Policy(keep, timedelta(hours=grace_hours))
    settings = recipe or read_release(Lake(lake), PRODUCTION).recipe
    with open_run("gc", lake, settings, {"keep": keep, "grace_hours": grace_hours}) as run:
        with progress_listener(run.say):
            found = collect(run.lake, policy, run.provenance(), remove=True)
        for line in lines(found, removed=True):
            run.say(f"  {line}")
        size = sum(each.size for each in found.garbage)
        return run.done(retired=list(found.retired), files=len(found.garbage), bytes=size)
