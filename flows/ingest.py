"""Ingest: read sources into the lake without making a release; the next night processes them."""

from typing import Any

from prefect import flow

from flows.runtime.cancellation import report_cancelled
from flows.runtime.run import open_run
from flows.steps.ingest import ingest as ingest_sources


@flow(name="ingest", log_prints=False, on_crashed=[report_cancelled])
def ingest(
    lake: str,
    recipe: str | dict[str, Any] = "default",
    items: list[str] | None = None,
    interactions: list[str] | None = None,
    as_of: str | None = None,
    overrides: list[str] | None = None,
) -> dict[str, Any]:
    """Read new sources into the lake; `as_of` is their arrival time (now by default)."""
    parameters = {"items": items, "interactions": interactions, "as_of": as_of, "overrides": overrides}
    with open_run("ingest", lake, recipe, parameters, as_of) as run:
        ingest_sources(run, items or [], interactions or [])
        return run.done(items=run.lake.version("items"), interactions=run.lake.version("interactions"))
