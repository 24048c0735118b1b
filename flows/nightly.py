"""Nightly: items that arrived since the parent release get SIDs under its frozen codebook; published SIDs stay."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import polars as pl
from prefect import flow

from flows.runtime.cancellation import report_cancelled
from flows.runtime.run import Run, open_run
from flows.runtime.times import bounds, parse_time
from flows.snapshot import (
    Snapshot,
    added_events,
    arrived_since,
    check_as_of,
    release_key,
    say_cutoff,
    take_snapshot,
)
from flows.steps.assign import assign
from flows.steps.basis import basis_of
from flows.steps.behaviour import fold_new
from flows.steps.candidate import make_candidate
from flows.steps.embed import check_encoders, describe_encoders, embed_items
from flows.steps.ingest import ingest
from flows.steps.publish import Moved, publish, show_release
from flows.steps.vectors import item_vectors
from storage.errors import PointerMoved
from storage.lake import Lake
from storage.quarantine import open_rows, resolve
from storage.releases.catalogue import segments
from storage.releases.manifest import Manifest
from storage.releases.pointers import read_pointer
from storage.releases.publishing import is_earlier
from storage.releases.releases import (
    PRODUCTION,
    find_release_by_key,
    fit_cutoff_of,
    published,
    published_assignments,
    read_release,
)

TRIES = 8
"""Most attempts of a run to publish; an attempt fails if production moves meanwhile."""
# Stages after ingest that can refuse an item.
ITEM_STAGES = ("embed text", "embed image", "embed attributes", "embed coordinates", "fuse", "assign")


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
) -> dict[str, Any]:
    """Ingest, embed new items, assign SIDs, run the gates and publish. Without a recipe, the parent's is used.

    If production moves meanwhile, the night extends the release that it moved to. If production is held
    (`storage.releases.publishing.hold`), or `parent` is a release id (such as a backfill's candidate), the result is a
    candidate, which a person may publish. Without a cutoff, the rule of the parent's cutoff applies again: its date, or
    the recipe's share. `retry_quarantined` retries items that a stage after ingest refused, and pictures that failed to
    download. `overrides` of the recipe apply to this run and are not stored in its release.
    """
    base = read_release(Lake(lake), parent)
    check_as_of(parse_time(as_of), base)
    parameters = {
        "items": items,
        "interactions": interactions,
        "as_of": as_of,
        "cutoff": cutoff,
        "parent": parent,
        "retry_quarantined": retry_quarantined,
        "overrides": overrides,
    }
    with open_run("nightly", lake, recipe or base.recipe, parameters, as_of) as run:
        ingest(run, items or [], interactions or [], fetch=retry_quarantined)
        for _ in range(TRIES):
            alias = read_pointer(run.lake, PRODUCTION)
            base = read_release(run.lake, alias.value["release"] if parent == PRODUCTION and alias.value else parent)
            if recipe is None:
                run.use_recipe(base.recipe, overrides)
            snapshot = _night_snapshot(run, base, *bounds(as_of, cutoff))
            manifest = extended_release(run, "nightly", snapshot, base, retry_quarantined)
            if manifest is None:
                run.say(f"  skipped: nothing has arrived since {base.id} (as of {base.as_of:%Y-%m-%d %H:%M:%S})")
                return run.done(release=base.id, made=False)
            moved = publish(run, manifest, alias) if parent == PRODUCTION else None
            if moved is not Moved.AWAY:
                show_release(manifest)
                return run.done(release=manifest.id, made=True, published=moved is Moved.HERE)
        raise PointerMoved(
            f"production moved {TRIES} times while this night worked, each time before its candidate was ready; "
            "nothing was published. Run it again when fewer runs publish to this lake."
        )


def _night_snapshot(run: Run, base: Manifest, as_of: datetime | None, cutoff: datetime | None) -> Snapshot:
    """Take a night's snapshot. Its default cutoff follows the parent's rule, but not before events that vectors saw."""
    snapshot = take_snapshot(run, as_of, cutoff, base, date=base.cutoff_date)
    segments = _base(run.lake, base)
    seen = max(base.fit_cutoff, fit_cutoff_of(run.lake, segments) or base.fit_cutoff)
    if snapshot.cutoff >= seen:
        return snapshot
    if cutoff is not None:
        raise ValueError(
            f"the cutoff {snapshot.cutoff.isoformat()} lies before {seen.isoformat()}: up to then vectors that "
            f"{base.id} or a later release made SIDs of have seen events: what is held out would not be new to them. "
            "Give a later one."
        )
    return replace(snapshot, cutoff=seen)


def extended_release(
    run: Run, kind: Any, snapshot: Snapshot, parent: Manifest, retry_quarantined: bool
) -> Manifest | None:
    """Make a candidate that extends `parent` by data that became visible since; return None if there is none."""
    again = _refused_items(run) if retry_quarantined else []
    if retry_quarantined and not again:
        run.say("  no item is held back by a stage after ingest; refused rows of a source are mended by a new source")
    changed = arrived_since(run.lake, parent, snapshot)
    base = _base(run.lake, parent)
    events = added_events(run.lake, parent, snapshot, ["item_id"])
    if changed.is_empty() and events.is_empty() and not again and not _behind(run.lake, parent, base):
        return None
    say_cutoff(run, snapshot)
    asked = {"retry": again, "segments": base}
    key = release_key(kind, parent.id, snapshot.content(run.lake), run.recipe.hash, asked)
    made = find_release_by_key(run.lake, key)
    if made is not None:
        run.say(f"  skipped: {made.id} was made from these inputs with this recipe already")
        return made
    encoders = describe_encoders(run)
    check_encoders(parent.id, parent.encoders, encoders)
    run.record.begin()
    if again:
        changed = pl.concat([changed, snapshot.catalogue(run.lake, among=again)]).unique("item_id").sort("item_id")
    alive = changed.filter(~pl.col("deleted"))
    run.compute_for(alive.height)
    if changed.height > alive.height:
        run.say(f"  {changed.height - alive.height:,} deleted items leave the trie; their SIDs go to nobody")
    embed_items(run, alive, encoders)
    basis = basis_of(run.lake, parent)
    known = segments(run.lake, list(base), parent.codebook.id, among=alive["item_id"].to_list())["item_id"]
    new = sorted(set(alive["item_id"]) - set(known))
    encoders = fold_new(run, snapshot, parent, basis.encoders, new)
    if encoders is not basis.encoders:
        basis = replace(basis, encoders=encoders, fit_cutoff=max(basis.fit_cutoff, snapshot.cutoff))
    assigned = assign(run, basis, item_vectors(run, basis, alive), base, key)
    candidate = make_candidate(run, kind, key, snapshot, basis, assigned, parent)
    _resolve_assigned(run, again, candidate)
    return candidate


def _behind(lake: Lake, parent: Manifest, base: tuple[str, ...]) -> bool:
    """Return whether a release cannot be published even if nothing has arrived since.

    It then lacks a segment that was published since, or is of an earlier time than production.
    """
    alias = published(lake)
    earlier = is_earlier(parent, read_release(lake, alias.release)) if alias else False
    return bool(earlier) or not set(base) <= set(parent.assignments)


def _base(lake: Lake, parent: Manifest) -> tuple[str, ...]:
    """Return the segments of a release, and all ever published under its codebook, because their SIDs are taken."""
    taken = published_assignments(lake, parent.codebook.id)
    return tuple(dict.fromkeys([*parent.assignments, *taken]))


def _refused_items(run: Run) -> list[str]:
    rows = open_rows(run.lake)
    items = rows.filter(pl.col("stage").is_in(ITEM_STAGES) & pl.col("subject").is_not_null())["subject"]
    return items.unique().sort().to_list()


def _resolve_assigned(run: Run, again: list[str], candidate: Manifest) -> None:
    """Resolve rows that fuse or assign refused and whose item has a SID now."""
    if not again:
        return
    done = segments(run.lake, list(candidate.assignments), candidate.codebook.id)["item_id"]
    rows = open_rows(run.lake).filter(
        pl.col("stage").is_in(("fuse", "assign")) & pl.col("subject").is_in(done.to_list())
    )
    resolve(run.lake, rows, f"assigned in {candidate.id}", run.provenance())
