"""Nightly: what has arrived since the parent release gets SIDs under its frozen codebook; nothing published moves."""

from dataclasses import replace
from typing import Any

import polars as pl
from prefect import flow

from flows.cancellation import report_cancelled
from flows.run import Run, open_run
from flows.snapshot import Snapshot, added_events, arrived_since, release_key, take_snapshot
from flows.steps.assign import assign
from flows.steps.behaviour import fold_new
from flows.steps.candidate import make_candidate
from flows.steps.embed import check_encoders, describe_encoders, embed_items
from flows.steps.fit import basis_of
from flows.steps.ingest import ingest
from flows.steps.publish import publish, show_release
from flows.times import bounds
from storage.catalogue import segments
from storage.lake import Lake
from storage.manifest import Manifest
from storage.quarantine import open_rows, resolve
from storage.releases import PRODUCTION, find_release_by_key, published_assignments, read_release

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
    """Ingest, embed what is new, assign, judge, publish. Without a recipe the parent's own is used.

    With a `parent` that is a candidate (a backfill) the result is a candidate too: publishing it is a decision.
    `retry_quarantined` tries the items again that a stage after ingest had refused. `overrides` of the recipe hold
    for this run and are not stored in its release.
    """
    base = read_release(Lake(lake), parent)
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
        snapshot = _after_the_fit(take_snapshot(run, *bounds(as_of, cutoff)), base, asked=cutoff is not None)
        manifest = extended_release(
            run, "nightly", snapshot, base, retry_quarantined, {"as_of": as_of, "cutoff": cutoff}
        )
        if manifest is None:
            run.say(f"  skipped: nothing has arrived since {base.id} (as of {base.as_of:%Y-%m-%d %H:%M:%S})")
            return run.done(release=base.id, made=False)
        if parent == PRODUCTION:
            publish(run, manifest)
        show_release(manifest)
        return run.done(release=manifest.id, made=True)


def extended_release(
    run: Run,
    kind: Any,
    snapshot: Snapshot,
    parent: Manifest,
    retry_quarantined: bool,
    asked: dict[str, str | None],
) -> Manifest | None:
    """A candidate that extends `parent` by what is visible now and was not then; None when that is nothing."""
    again = _refused_items(run) if retry_quarantined else []
    if retry_quarantined and not again:
        run.say("  no item is held back by a stage after ingest; refused rows of a source are mended by a new source")
    changed = arrived_since(run.lake, parent, snapshot)
    if changed.is_empty() and added_events(run.lake, parent, snapshot, ["item_id"]).is_empty() and not again:
        return None
    key = release_key(kind, parent.id, snapshot, run.recipe.hash, {**asked, "retry": ",".join(again) or None})
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
    basis, base = basis_of(run.lake, parent), _base(run, parent)
    known = segments(run.lake, list(base), parent.codebook.id, among=alive["item_id"].to_list())["item_id"]
    new = sorted(set(alive["item_id"]) - set(known))
    encoders = fold_new(run, snapshot, parent, basis.encoders, new)
    if encoders is not basis.encoders:
        basis = replace(basis, encoders=encoders, fit_cutoff=max(basis.fit_cutoff, snapshot.cutoff))
    assigned = assign(run, basis, alive, base, key)
    candidate = make_candidate(run, kind, key, snapshot, basis, assigned, parent)
    _resolve_assigned(run, again, candidate)
    return candidate


def _after_the_fit(snapshot: Snapshot, parent: Manifest, asked: bool) -> Snapshot:
    """A cutoff before events that the parent's vectors have seen would hold out what was fitted on."""
    if snapshot.cutoff >= parent.fit_cutoff:
        return snapshot
    if asked:
        raise ValueError(
            f"the cutoff {snapshot.cutoff.isoformat()} lies before {parent.fit_cutoff.isoformat()}: up to then the "
            f"vectors of {parent.id} have seen events, and what is held out would not be new to them. Give a later one."
        )
    return replace(snapshot, cutoff=parent.fit_cutoff)


def _base(run: Run, parent: Manifest) -> tuple[str, ...]:
    taken = published_assignments(run.lake, parent.codebook.id)
    return tuple(dict.fromkeys([*parent.assignments, *taken]))


def _refused_items(run: Run) -> list[str]:
    rows = open_rows(run.lake)
    items = rows.filter(pl.col("stage").is_in(ITEM_STAGES) & pl.col("subject").is_not_null())["subject"]
    return items.unique().sort().to_list()


def _resolve_assigned(run: Run, again: list[str], candidate: Manifest) -> None:
    """Items that were refused and have a SID now are resolved."""
    if not again:
        return
    done = segments(run.lake, list(candidate.assignments), candidate.codebook.id)["item_id"]
    rows = open_rows(run.lake).filter(
        pl.col("stage").is_in(("fuse", "assign")) & pl.col("subject").is_in(done.to_list())
    )
    resolve(run.lake, rows, f"assigned in {candidate.id}", run.provenance())
