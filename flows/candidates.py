"""Candidates: the catalogue under a newly fitted codebook, or a release extended by what arrived since."""

from dataclasses import replace

import polars as pl

from flows.recipe import unapplied_by_nights
from flows.runtime.run import Run
from flows.snapshot import Snapshot, added_events, arrived_since, release_key, say_cutoff
from flows.steps.assign import Extended, assign
from flows.steps.behaviour import fold_new
from flows.steps.candidate import CandidateInput, Kind, make_candidate
from flows.steps.embed import check_encoders, describe_encoders, embed_items, embed_stage
from flows.steps.fit import fit, fit_input, refit
from flows.steps.fitted_artifacts import fitted_artifacts_of
from flows.steps.given import read_given, store_given
from flows.steps.vectors import VectorInputs, item_vectors
from pipelines.modalities import CONTENT
from storage.lake import Lake
from storage.quarantine import open_rows, resolve
from storage.releases.catalogue import segments
from storage.releases.manifest import Manifest
from storage.releases.publishing import is_earlier
from storage.releases.releases import (
    find_release_by_key,
    published,
    published_assignments,
    read_release,
    release_of_fit,
)
from tokenizer.codebook import check_capacity

MAX_PUBLISH_ATTEMPTS = 8
"""Most attempts of a run to publish; an attempt fails if production moves meanwhile."""
# Stages after ingest that can refuse an item.
ITEM_STAGES = (*map(embed_stage, CONTENT), "fuse", "assign")


class NothingToDo(ValueError):
    """Raised if the lake holds no item to process."""


def fitted_release(
    run: Run,
    kind: Kind,
    snapshot: Snapshot,
    parent: Manifest | None,
    refit_of: Manifest | None = None,
) -> Manifest:
    """Make a candidate under a newly fitted codebook, or under a refit of the codebook of `refit_of`.

    Return the existing candidate if one was made from the same input.
    """
    refitting = refit_of if run.recipe.refit else None
    given = read_given(run, snapshot, refitting)
    extra = {"refit_of": refit_of.id if refit_of else None, **given.key_fields}
    key = release_key(kind, parent.id if parent else None, snapshot.content(run.lake), run.recipe.hash, extra)
    made = find_release_by_key(run.lake, key)
    if made is not None:
        run.say(f"  skipped: {made.id} was made from these inputs with this recipe already")
        return made
    items = snapshot.catalogue(run.lake, ["deleted"]).filter(~pl.col("deleted")).select("item_id", "revision")
    if items.is_empty():
        raise NothingToDo(_why_nothing(run, snapshot))
    if refitting is None:
        check_capacity(run.recipe.codebook, items.height)  # before hours of embedding
    log = snapshot.log
    if run.recipe.collaborative is not None and not run.lake.count("interactions", log.version, log.visible):
        run.say(
            f"  warning: the recipe has [collaborative], but the log has no event before {snapshot.cutoff:%Y-%m-%d} "
            "that it can use: no behaviour vectors are made"
        )
    encoders = describe_encoders(run) | given.encoders
    if refitting is not None:
        check_encoders(refitting.id, refitting.encoders, encoders)
    say_cutoff(run, snapshot)
    run.begin()
    run.compute_for(items.height)
    if refitting is None:
        run.compute.prepare(items.height)  # a fit will need it
    store_given(run, given)
    inputs = VectorInputs(items, embed_items(run, snapshot, items, encoders), given)
    del given, items
    # What is as long as the catalogue is not kept longer than it is needed.
    sids = None
    if refitting is not None and run.recipe.refit is not None:
        refitted = fitted_artifacts_of(run.lake, refitting)
        vectors = item_vectors(run, refitted, inputs)
        del inputs
        artifacts, sids = refit(run, refitted, vectors, refitting, run.recipe.refit)
    else:
        found = fit_input(run, snapshot, inputs, encoders)
        del inputs
        artifacts, vectors = fit(run, snapshot, found)
        del found
    assigned = assign(run, artifacts, vectors, key, refitted=sids)
    del vectors, sids
    return make_candidate(run, CandidateInput(kind, key, snapshot, artifacts, assigned, parent))


def _why_nothing(run: Run, snapshot: Snapshot) -> str:
    """Return the error message for a lake without an item to process."""
    if deleted := snapshot.catalogue(run.lake, ["deleted"]).height:
        return (
            f"all {deleted:,} items of the lake {run.lake.uri} that arrived by {snapshot.as_of.isoformat()} are "
            "deleted: give items that are not, or check the column that `items.deleted` names."
        )
    named = run.record.parameters.get("items") or []
    advice = f"none came from {', '.join(named)}" if named else "give a catalogue with --items FILE"
    return f"the lake {run.lake.uri} has no item that arrived by {snapshot.as_of.isoformat()}; {advice}."


def extended_release(
    run: Run, kind: Kind, snapshot: Snapshot, parent: Manifest, retry_quarantined: bool
) -> Manifest | None:
    """Make a candidate that extends `parent` by data that became visible since; return None if there is none."""
    again = _refused_items(run) if retry_quarantined else []
    if retry_quarantined and not again:
        run.say(
            "  no item in quarantine can be tried again; rows that ingest refused must be corrected and sent in a "
            "new file"
        )
    given = read_given(run, snapshot, parent)
    fresh = given.new_since(run.lake, parent)
    changed = arrived_since(run.lake, parent, snapshot)
    taken = taken_segments(run.lake, parent)
    events = added_events(run.lake, parent, snapshot, ["item_id"])
    again = sorted({*again, *fresh})
    if changed.is_empty() and events.is_empty() and not again and not _behind(run.lake, parent, taken):
        return None
    say_cutoff(run, snapshot)
    extra = {"retry": again, "segments": taken, **given.key_fields}
    key = release_key(kind, parent.id, snapshot.content(run.lake), run.recipe.hash, extra)
    made = find_release_by_key(run.lake, key)
    if made is not None:
        run.say(f"  skipped: {made.id} was made from these inputs with this recipe already")
        return made
    encoders = describe_encoders(run) | given.encoders
    check_encoders(parent.id, parent.encoders, encoders)
    fitted = release_of_fit(run.lake, parent)
    if note := unapplied_by_nights(fitted.id, fitted.recipe, run.recipe):
        run.say(f"  warning: {note}")
    run.begin()
    if again:
        refused = snapshot.catalogue(run.lake, ["deleted"], again)
        changed = pl.concat([changed, refused]).unique("item_id").sort("item_id")
    alive = changed.filter(~pl.col("deleted"))
    run.compute_for(alive.height)
    if changed.height > alive.height:
        run.say(f"  {changed.height - alive.height:,} deleted items leave the trie; their SIDs are not used again")
    store_given(run, given)
    contents = embed_items(run, snapshot, alive, encoders)
    artifacts = fitted_artifacts_of(run.lake, parent)
    known = segments(run.lake, list(taken), parent.codebook.id, among=alive["item_id"], columns=["item_id"])
    new = sorted(set(alive["item_id"]) - set(known["item_id"]))
    encoders = fold_new(run, snapshot, parent, artifacts.encoders, new)
    if encoders is not artifacts.encoders:
        artifacts = replace(artifacts, encoders=encoders, fit_cutoff=max(artifacts.fit_cutoff, snapshot.cutoff))
    vectors = item_vectors(run, artifacts, VectorInputs(alive, contents, given))
    assigned = assign(run, artifacts, vectors, key, extended=Extended(parent, taken))
    candidate = make_candidate(run, CandidateInput(kind, key, snapshot, artifacts, assigned, parent))
    _resolve_assigned(run, again, candidate)
    return candidate


def _behind(lake: Lake, parent: Manifest, taken: tuple[str, ...]) -> bool:
    """Return whether a release cannot be published even if nothing has arrived since.

    It then lacks a segment that was published since, or is of an earlier time than production.
    """
    alias = published(lake)
    earlier = is_earlier(parent, read_release(lake, alias.release)) if alias else False
    return bool(earlier) or not set(taken) <= set(parent.assignments)


def taken_segments(lake: Lake, parent: Manifest) -> tuple[str, ...]:
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
    rows = open_rows(run.lake).filter(pl.col("stage").is_in(("fuse", "assign")) & pl.col("subject").is_not_null())
    done = segments(
        run.lake, list(candidate.assignments), candidate.codebook.id, among=rows["subject"], columns=["item_id"]
    )
    rows = rows.filter(pl.col("subject").is_in(done["item_id"].implode()))
    resolve(run.lake, rows, f"assigned in {candidate.id}", run.provenance())
