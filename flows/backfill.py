"""Backfill: the catalogue under another codebook, as a candidate beside production until someone publishes it."""

from datetime import UTC, datetime
from typing import Any

from prefect import flow

from flows.bootstrap import fitted_release
from flows.cancellation import report_cancelled
from flows.diff import diff_releases, show_diff
from flows.nightly import extended_release
from flows.run import Run, open_run
from flows.snapshot import take_snapshot
from flows.steps.publish import publish, show_release
from flows.times import bounds
from storage.lake import Lake
from storage.manifest import Manifest
from storage.releases import PRODUCTION, read_release


@flow(name="backfill", log_prints=False, on_crashed=[report_cancelled])
def backfill(
    lake: str,
    recipe: str | dict[str, Any] | None = None,
    as_of: str | None = None,
    cutoff: str | None = None,
    publish_when_done: bool = False,
    overrides: list[str] | None = None,
) -> dict[str, Any]:
    """Fit, assign and judge under the recipe's codebook; production does not move unless asked to.

    Fitted on the catalogue as of `as_of` (that of production by default) and events before `cutoff` (production's,
    or `as_of` if that is earlier). What has arrived since, also while the backfill ran, is then caught up under the
    new codebook as a further candidate: that is the one to publish. With [refit] in the recipe, production's codebook
    is refitted within its churn budget in place of fitting one anew. `overrides` of the recipe hold for this run and
    are not stored in its releases.
    """
    production = read_release(Lake(lake), PRODUCTION)
    parameters = {
        "as_of": as_of,
        "cutoff": cutoff,
        "publish_when_done": publish_when_done,
        "overrides": overrides,
    }
    with open_run("backfill", lake, recipe or production.recipe, parameters) as run:
        bound, held_out = bounds(as_of, cutoff)
        bound = bound or production.as_of
        snapshot = take_snapshot(run, bound, held_out or min(production.cutoff, bound))
        refit_of = production if run.recipe.refit else None
        asked = {"as_of": as_of, "cutoff": cutoff, **({"refit_of": refit_of.id} if refit_of else {})}
        fitted = fitted_release(run, "backfill", snapshot, None, asked, refit_of)
        candidate = _caught_up(run, fitted, held_out or production.cutoff)
        show_diff(run.say, diff_releases(run.lake, read_release(run.lake, PRODUCTION), candidate))
        if publish_when_done:
            publish(run, candidate)
        else:
            run.say(f"  production stays; `sidmill release publish {candidate.id}` publishes this candidate")
        show_release(candidate)
        return run.done(release=candidate.id, fitted=fitted.id, made=run.record.begun)


def _caught_up(run: Run, fitted: Manifest, cutoff: datetime) -> Manifest:
    """Extend the candidate until nothing has arrived that it lacks."""
    candidate = fitted
    while True:
        now = take_snapshot(run, datetime.now(UTC), cutoff)
        asked = {"as_of": None, "cutoff": cutoff.isoformat()}
        extended = extended_release(run, "backfill", now, candidate, False, asked)
        if extended is None:
            return candidate
        run.say(f"  caught up: {extended.id} adds what arrived after {candidate.as_of:%Y-%m-%d %H:%M:%S}")
        candidate = extended
