"""Backfill: a candidate of the catalogue under another codebook, beside production until it is published."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from prefect import flow

from flows.candidates import MAX_PUBLISH_ATTEMPTS, extended_release, fitted_release
from flows.inspect.diff import diff_releases, show_diff
from flows.runtime.cancellation import report_cancelled
from flows.runtime.run import Run, open_run
from flows.runtime.times import bounds
from flows.snapshot import take_snapshot
from flows.steps.publish import PublishOutcome, publish, show_release
from storage.errors import PointerMoved
from storage.lake import Lake
from storage.releases.manifest import Manifest
from storage.releases.pointers import read_pointer
from storage.releases.releases import PRODUCTION, published, read_release


@flow(name="backfill", log_prints=False, on_crashed=[report_cancelled])
def backfill(
    lake: str,
    recipe: str | dict[str, Any] | None = None,
    as_of: str | None = None,
    cutoff: str | None = None,
    publish_when_done: bool = False,
    without_model: bool = False,
    overrides: list[str] | None = None,
) -> dict[str, Any]:
    """Fit a codebook, assign SIDs and run the gates; production moves only with `publish_when_done`.

    The fit uses the catalogue as of `as_of` (by default production's) and events before `cutoff` (by default
    production's, or `as_of` if that is earlier). Data that arrives later, also during the backfill, is then added under
    the new codebook in a further candidate, which is the one to publish. With [refit] in the recipe, production's
    codebook is refitted within its churn budget instead. `overrides` of the recipe apply to this run and are not stored
    in its releases. Production's model does not know the new codes: to publish without a model, set `without_model`.

    Args:
        lake: Folder or object-store address of the lake.
        recipe: A recipe: a TOML file, a name such as `demo`, or its sections as an object. Default: production's.
        as_of: Latest arrival of what the fit sees, such as 2026-12-01 or 2026-12-01T03:00:00Z. Default: production's.
        cutoff: Time from which events are held out of the fit. Default: production's, or `as_of` if that is earlier.
        publish_when_done: Publish the release if its gates pass. Default: it stays a candidate.
        without_model: Publish although production's model does not know the new codes.
        overrides: Settings for this run alone, each SECTION.FIELD=VALUE, such as refit.budget=0.05.
    """
    production = read_release(Lake(lake), PRODUCTION)
    check_publishing(Lake(lake), publish_when_done, without_model)
    parameters = {
        "as_of": as_of,
        "cutoff": cutoff,
        "publish_when_done": publish_when_done,
        "without_model": without_model,
        "overrides": overrides,
    }
    with open_run("backfill", lake, recipe or production.recipe, parameters) as run:
        bound, held_out = bounds(as_of, cutoff)
        bound = bound or production.as_of
        date = held_out or production.cutoff_date
        snapshot = replace(take_snapshot(run, bound, held_out or min(production.cutoff, bound)), cutoff_date=date)
        refit_of = production if run.recipe.refit else None
        if refit_of is not None:
            check_refit_cutoff(refit_of, snapshot.cutoff)
        fitted = fitted_release(run, "backfill", snapshot, None, refit_of)
        candidate = _extend_to_present(run, fitted, held_out or production.cutoff, date)
        show_diff(run.say, diff_releases(run.lake, read_release(run.lake, PRODUCTION), candidate))
        if publish_when_done:
            candidate = _published(run, candidate, held_out or production.cutoff, date, without_model)
        elif candidate.blocked_by:
            failed = ", ".join(gate.name for gate in candidate.blocked_by)
            run.say(
                f"  production is unchanged: {candidate.id} fails the gates {failed} and cannot be published. Correct "
                f"the input or the recipe and run again (`sidmill release show {candidate.id}` shows the figures)"
            )
        else:
            run.say(f"  production is unchanged; `sidmill release publish {candidate.id}` publishes this candidate")
        show_release(candidate)
        return run.done(release=candidate.id, fitted=fitted.id, made=run.record.begun)


def check_publishing(lake: Lake, publish: bool, without_model: bool) -> None:
    """Raise ValueError if publishing another codebook would leave production without its model, unasked."""
    if publish and not without_model and (alias := published(lake)) and alias.model:
        raise ValueError(
            f"publishing another codebook would leave production without its generator {alias.model}. Run without "
            "--publish, train on the candidate (`sidmill run train --release ...`) and publish both; or add "
            "--without-model."
        )


def check_refit_cutoff(production: Manifest, cutoff: datetime) -> None:
    """Raise ValueError if a refit would hold out events that the vectors of production have seen."""
    if cutoff < production.fit_cutoff:
        raise ValueError(
            f"the cutoff {cutoff.isoformat()} is too early for a refit: it keeps the vectors of {production.id}, which "
            f"have seen events up to {production.fit_cutoff.isoformat()}, so these events cannot be held out. Give a "
            "later --cutoff, or remove [refit] to fit a new codebook."
        )


def _published(run: Run, candidate: Manifest, cutoff: datetime, date: datetime | None, without_model: bool) -> Manifest:
    """Catch the candidate up and publish it; repeat this if production moves meanwhile."""
    for _ in range(MAX_PUBLISH_ATTEMPTS):
        alias = read_pointer(run.lake, PRODUCTION)
        candidate = _extend_to_present(run, candidate, cutoff, date)
        if publish(run, candidate, alias, without_model) is not PublishOutcome.CONFLICT:
            return candidate
    raise PointerMoved(
        f"{candidate.id} was not published and stays a candidate: other runs moved production during each of "
        f"{MAX_PUBLISH_ATTEMPTS} attempts. Publish it with `sidmill release publish {candidate.id}` when fewer runs "
        "publish to this lake."
    )


def _extend_to_present(run: Run, fitted: Manifest, cutoff: datetime, date: datetime | None) -> Manifest:
    """Extend the candidate until it has all data that has arrived, and is not earlier than production."""
    candidate = fitted
    while True:
        production = read_release(run.lake, PRODUCTION)
        run.clock = datetime.now(UTC)
        now = take_snapshot(run, None, None, candidate, production, date=max(cutoff, candidate.fit_cutoff))
        extended = extended_release(run, "backfill", replace(now, cutoff_date=date), candidate, False)
        if extended is None:
            return candidate
        run.say(f"  caught up: {extended.id} adds what arrived after {candidate.as_of:%Y-%m-%d %H:%M:%S}")
        candidate = extended
