"""Nightly: items that arrived since the parent release get SIDs under its frozen codebook; published SIDs stay."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from prefect import flow

from flows.candidates import MAX_PUBLISH_ATTEMPTS, extended_release, taken_segments
from flows.runtime.cancellation import report_cancelled
from flows.runtime.run import Run, open_run
from flows.runtime.times import bounds, parse_time
from flows.snapshot import Snapshot, check_as_of, take_snapshot
from flows.steps.ingest import ingest
from flows.steps.publish import PublishOutcome, publish, show_release
from infra.addresses import refuse_parameters
from pipelines.ingest.announced import at_snapshot
from storage.errors import PointerMoved
from storage.lake import Lake
from storage.releases.manifest import Manifest
from storage.releases.pointers import read_pointer
from storage.releases.releases import PRODUCTION, fit_cutoff_of, read_release


@flow(name="nightly", log_prints=False, on_crashed=[report_cancelled])
def nightly(
    lake: str,
    recipe: str | dict[str, Any] | None = None,
    items: list[str] | None = None,
    interactions: list[str] | None = None,
    as_of: str | None = None,
    cutoff: str | None = None,
    parent: str = PRODUCTION,
    retry_quarantined: bool = False,
    overrides: list[str] | None = None,
    snapshot: str | None = None,
) -> dict[str, Any]:
    """Ingest, embed new items, assign SIDs, run the gates and publish. Without a recipe, the parent's is used.

    If production moves meanwhile, the night extends the release that it moved to. If production is held
    (`storage.releases.publishing.hold`), or `parent` is a release id (such as a backfill's candidate), the result is a
    candidate, which a person may publish. Without a cutoff, the rule of the parent's cutoff applies again: its date, or
    the recipe's share. `retry_quarantined` retries items that a stage after ingest refused, and pictures that failed to
    download. `overrides` of the recipe apply to this run and are not stored in its release.

    Args:
        lake: Folder or object-store address of the lake.
        recipe: A recipe: a TOML file, a name such as `demo`, or its sections as an object. Default: the parent's.
        items: Catalogues to read: files, folders, tables, queries or streams. What was read before is skipped.
        interactions: Interaction logs to read, of the same kinds.
        as_of: Latest arrival of what the release sees, such as 2026-12-01 or 2026-12-01T03:00:00Z. Default: now.
        cutoff: Time from which events are held out for evaluation. Default: by the rule of the parent.
        parent: Release id or alias that the night extends; of another one than production it makes a candidate.
        retry_quarantined: Try items again that a stage after ingest refused, and pictures that could not be fetched.
        overrides: Settings for this run alone, each SECTION.FIELD=VALUE, such as budget.quarantine_rows=500.
        snapshot: Address of one of the tables at a version, such as s3://bucket/items@v12, which is read in place of
            its newest version. Default: all that came.
    """
    base = read_release(Lake(lake), parent)
    refuse_parameters(snapshot or "", "the event's snapshot")
    parameters = {
        "items": items,
        "interactions": interactions,
        "as_of": as_of,
        "cutoff": cutoff,
        "parent": parent,
        "retry_quarantined": retry_quarantined,
        "overrides": overrides,
        "snapshot": snapshot,
    }
    with open_run("nightly", lake, recipe or base.recipe, parameters, as_of) as run:
        check_as_of(parse_time(as_of), base)
        sources = at_snapshot(snapshot, items or [], interactions or [])
        ingest(run, *sources, fetch=retry_quarantined, base=base)
        for _ in range(MAX_PUBLISH_ATTEMPTS):
            alias = read_pointer(run.lake, PRODUCTION)
            base = read_release(run.lake, alias.target.release if parent == PRODUCTION and alias.target else parent)
            if recipe is None:
                run.use_recipe(base.recipe, overrides)
            visible = _night_snapshot(run, base, *bounds(as_of, cutoff))
            manifest = extended_release(run, "nightly", visible, base, retry_quarantined)
            if manifest is None:
                run.say(f"  skipped: nothing has arrived since {base.id} (as of {base.as_of:%Y-%m-%d %H:%M:%S})")
                return run.done(release=base.id, made=False)
            outcome = publish(run, manifest, alias) if parent == PRODUCTION else None
            if outcome is not PublishOutcome.CONFLICT:
                show_release(manifest)
                return run.done(release=manifest.id, made=True, published=outcome is PublishOutcome.PUBLISHED)
        raise PointerMoved(
            f"nothing was published: other runs moved production during each of {MAX_PUBLISH_ATTEMPTS} attempts, "
            "before the candidate of this run was ready. Run it again when fewer runs publish to this lake."
        )


def _night_snapshot(run: Run, base: Manifest, as_of: datetime | None, cutoff: datetime | None) -> Snapshot:
    """Take a night's snapshot. Its default cutoff follows the parent's rule, but not before events that vectors saw."""
    snapshot = take_snapshot(run, as_of, cutoff, base, date=base.cutoff_date)
    seen = max(base.fit_cutoff, fit_cutoff_of(run.lake, taken_segments(run.lake, base)) or base.fit_cutoff)
    if snapshot.cutoff >= seen:
        return snapshot
    if cutoff is not None:
        raise ValueError(
            f"the cutoff {snapshot.cutoff.isoformat()} is too early: the vectors behind the SIDs of {base.id} or a "
            f"later release have seen events up to {seen.isoformat()}, so these events cannot be held out. Give a "
            "later --cutoff."
        )
    return replace(snapshot, cutoff=seen)
