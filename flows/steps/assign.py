"""Step that adds a segment to the SID table, for the items that have no SID under the codebook yet."""

import hashlib
from dataclasses import dataclass

from flows.runtime.budget import check_stage_budget
from flows.runtime.run import Run
from flows.steps.fit import RefittedSids
from flows.steps.fitted_artifacts import FittedArtifacts
from flows.steps.task import step
from flows.steps.vectors import ItemVectors
from pipelines.level_vectors import level_vectors
from pipelines.sid_table import Segment, occupancy, record_drift, write_segment
from storage.reasons import Reason, remedy
from storage.releases.catalogue import segments
from storage.releases.manifest import Manifest
from storage.releases.releases import published_assignments
from tokenizer.assign import Status, assign_sids, checked_sids
from tokenizer.metrics import DistributionShift, EncodingErrors


@dataclass(frozen=True)
class AssignedSegments:
    """Segments that make up the SID table of a release, and counts and errors of the newest one."""

    assignments: tuple[str, ...]
    new_items: int
    relocated: int
    refit_due: int
    drifted: int
    errors: EncodingErrors
    shift: DistributionShift | None


@dataclass(frozen=True)
class Extended:
    """The release `parent` that is extended, and its segments, with those published since under its codebook."""

    parent: Manifest
    segments: tuple[str, ...]


@step
def assign(
    run: Run,
    artifacts: FittedArtifacts,
    vectors: ItemVectors,
    key: str,
    *,
    refitted: RefittedSids | None = None,
    extended: Extended | None = None,
) -> AssignedSegments:
    """Assign SIDs to catalogue rows. An item with a SID keeps it, and is recorded as drifted if its vector changed.

    Segments ever published under the codebook are added to those of the release that is `extended`: their SIDs stay
    occupied, and an item that has one keeps it. `refitted` are those that a refit found.
    """
    codebook, parent = artifacts.codebook, extended.parent if extended else None
    taken = [*published_assignments(run.lake, codebook.id), *(extended.segments if extended else ())]
    taken = list(dict.fromkeys(taken))
    assignment_id = "a-" + hashlib.sha256(f"{key}\0{codebook.id}\0{sorted(taken)}".encode()).hexdigest()[:16]
    fused = vectors.fused
    published = segments(run.lake, taken, codebook.id, among=fused.items["item_id"])
    new = fused.take((~fused.items["item_id"].is_in(published["item_id"].implode())).arg_true().to_numpy())
    with run.stage("assign SIDs") as view:
        drifted = record_drift(run.lake, assignment_id, published, fused, artifacts.fusion.id, run.provenance())
        if drifted.height:
            view.note(f"{drifted.height:,} changed items keep their SID (drifted)", drifted=drifted.height)
        if new.items.is_empty():
            view.note("no item is new")
            return AssignedSegments(tuple(taken), 0, 0, 0, drifted.height, EncodingErrors(0.0, 0.0, 0), None)
        level = level_vectors(run.lake, new, vectors.gathered, codebook.sources, run.provenance())
        if level.fused.items.is_empty():
            view.count(level.counts)
            check_stage_budget(level.counts, run.recipe.budget)
            return AssignedSegments(tuple(taken), 0, 0, 0, drifted.height, EncodingErrors(0.0, 0.0, 0), None)
        free = occupancy(run.lake, codebook, taken, parent, None if parent is None else run.trie_of(parent))
        if refitted is None:
            assignment = assign_sids(codebook, level.vectors, level.items, free, run.compute.work)
        else:
            items = level.items
            assignment = checked_sids(codebook, level.vectors, items, free, refitted.of(items[:]), run.compute.work)
        segment = Segment(assignment_id, codebook, level.fused, assignment)
        counts = write_segment(run.lake, segment, level.counts, run.provenance(), run.compute.work)
        view.count(counts)
        view.note(run.compute.name, assignment=assignment_id)
    if waiting := counts.by_reason.get(Reason.REFIT_DUE, 0):
        later = (
            ", or with an --as-of after they arrived, to fit it on them too" if run.record.kind == "backfill" else ""
        )
        run.say(
            f"  warning: {waiting:,} items wait for a SID, because {Reason.REFIT_DUE.meaning}: "
            f"{remedy(Reason.REFIT_DUE)}{later}"
        )
    check_stage_budget(counts, run.recipe.budget)
    return AssignedSegments(
        assignments=(*taken, assignment_id),
        new_items=counts.out,
        relocated=int((assignment.status == Status.RELOCATED).sum()),
        refit_due=counts.by_reason.get(Reason.REFIT_DUE, 0),
        drifted=drifted.height,
        errors=assignment.errors,
        shift=assignment.shift,
    )
