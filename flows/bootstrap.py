"""Bootstrap: from a catalogue and its logs to the first published release."""

from typing import Any

from prefect import flow

from flows.candidates import fitted_release
from flows.runtime.cancellation import report_cancelled
from flows.runtime.run import open_run
from flows.runtime.times import bounds
from flows.snapshot import take_snapshot
from flows.steps.ingest import ingest
from flows.steps.publish import PublishOutcome, publish, show_release
from storage.releases.pointers import read_pointer
from storage.releases.releases import PRODUCTION


@flow(name="bootstrap", log_prints=False, on_crashed=[report_cancelled])
def bootstrap(
    lake: str,
    recipe: str | dict[str, Any] = "default",
    items: list[str] | None = None,
    interactions: list[str] | None = None,
    as_of: str | None = None,
    cutoff: str | None = None,
    overrides: list[str] | None = None,
) -> dict[str, Any]:
    """Ingest, embed, fit, assign SIDs, run the gates and publish. Skipped if production points to a release already.

    `as_of` is the arrival time of the sources (now by default); events at or after `cutoff` are held out. `overrides`
    of the recipe apply to this run and are not stored in its release.
    """
    parameters = {
        "items": items,
        "interactions": interactions,
        "as_of": as_of,
        "cutoff": cutoff,
        "overrides": overrides,
    }
    with open_run("bootstrap", lake, recipe, parameters, as_of) as run:
        alias = read_pointer(run.lake, PRODUCTION)
        if alias.target is not None:
            current = alias.target.release
            run.say(
                f"  skipped: production points to {current} already; add new items with `sidmill run nightly`, change "
                "the codebook with `sidmill run backfill`"
            )
            return run.done(release=current, made=False)
        ingest(run, items or [], interactions or [])
        snapshot = take_snapshot(run, *bounds(as_of, cutoff))
        manifest = fitted_release(run, "bootstrap", snapshot, None)
        outcome = publish(run, manifest, alias)
        show_release(manifest)
        return run.done(release=manifest.id, made=True, published=outcome is PublishOutcome.PUBLISHED)
