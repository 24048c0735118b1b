"""Bootstrap: from a catalogue and its logs to the first published release."""

from typing import Any

import polars as pl
from prefect import flow

from flows.runtime.cancellation import report_cancelled
from flows.runtime.run import Run, open_run
from flows.runtime.times import bounds
from flows.snapshot import Snapshot, release_key, say_cutoff, take_snapshot
from flows.steps.assign import assign
from flows.steps.basis import basis_of
from flows.steps.candidate import make_candidate
from flows.steps.embed import describe_encoders, embed_items
from flows.steps.fit import fit, refit
from flows.steps.ingest import ingest
from flows.steps.publish import Moved, publish, show_release
from flows.steps.vectors import item_vectors
from storage.releases.manifest import Manifest
from storage.releases.pointers import read_pointer
from storage.releases.releases import PRODUCTION, find_release_by_key
from tokenizer.codebook import plan


class NothingToDo(ValueError):
    """Raised if the lake holds no item to process."""


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
        if alias.value is not None:
            current = alias.value["release"]
            run.say(
                f"  skipped: production points to {current} already; new items are a night's work "
                "(`sidmill run nightly`), another codebook is a backfill (`sidmill run backfill`)"
            )
            return run.done(release=current, made=False)
        ingest(run, items or [], interactions or [])
        snapshot = take_snapshot(run, *bounds(as_of, cutoff))
        manifest = fitted_release(run, "bootstrap", snapshot, None)
        moved = publish(run, manifest, alias)
        show_release(manifest)
        return run.done(release=manifest.id, made=True, published=moved is Moved.HERE)


def fitted_release(
    run: Run,
    kind: Any,
    snapshot: Snapshot,
    parent: Manifest | None,
    refit_of: Manifest | None = None,
) -> Manifest:
    """Make a candidate under a newly fitted codebook, or under a refit of the codebook of `refit_of`.

    Return the existing candidate if one was made from the same input.
    """
    asked = {"refit_of": refit_of.id if refit_of else None}
    key = release_key(kind, parent.id if parent else None, snapshot.content(run.lake), run.recipe.hash, asked)
    made = find_release_by_key(run.lake, key)
    if made is not None:
        run.say(f"  skipped: {made.id} was made from these inputs with this recipe already")
        return made
    items = snapshot.catalogue(run.lake).filter(~pl.col("deleted"))
    if items.is_empty():
        raise NothingToDo(
            f"the lake {run.lake.uri} has no item that arrived by {snapshot.as_of.isoformat()}; {_catalogue(run)}."
        )
    if refit_of is None or run.recipe.refit is None:
        plan(run.recipe.codebook, items.height)  # raises for too few codes, before hours of embedding
    if run.recipe.collaborative is not None and snapshot.log.read(run.lake, ["item_id"]).is_empty():
        run.say(
            f"  warning: the log gave no event before {snapshot.cutoff:%Y-%m-%d}: no behaviour vectors are made, "
            "though the recipe has [collaborative]"
        )
    say_cutoff(run, snapshot)
    run.record.begin()
    run.compute_for(items.height)
    encoders = describe_encoders(run)
    embed_items(run, items, encoders)
    given = None
    if refit_of is not None and run.recipe.refit is not None:
        former = basis_of(run.lake, refit_of)
        vectors = item_vectors(run, former, items)
        basis, given = refit(run, former, vectors, refit_of, run.recipe.refit)
    else:
        basis, vectors = fit(run, snapshot, items, encoders)
    assigned = assign(run, basis, vectors, (), key, given)
    return make_candidate(run, kind, key, snapshot, basis, assigned, parent)


def _catalogue(run: Run) -> str:
    """Return the advice of an error message: the named files gave no item, or none was named."""
    named = run.record.parameters.get("items") or []
    return f"{', '.join(named)} gave none" if named else "give a catalogue with --items FILE"
