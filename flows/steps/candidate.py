"""Step that writes the trie, computes metrics and gates, and records a candidate; publishing is another step."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from flows.gates.judge import judge
from flows.gates.release_gates import Candidate
from flows.gates.sql_checks import judge_by_sql
from flows.runtime.members import packages_of_release
from flows.runtime.memory import return_freed_memory
from flows.runtime.run import Run
from flows.snapshot import Snapshot, added_events, arrived_since
from flows.steps.assign import AssignedSegments
from flows.steps.fitted_artifacts import FittedArtifacts
from flows.steps.task import step
from flows.watch.lineage import addresses_of
from pipelines.event_log.behaviour_log import item_counts
from pipelines.event_log.coverage import log_coverage
from pipelines.event_log.visible_log import LogSlice
from pipelines.neighbours import Added, neighbours_sharing
from pipelines.quality import HeldOut, behaviour, churn, kept_codes, table_quality
from sidmill.release import open_trie
from storage.lake import Lake
from storage.quarantine import by_reason
from storage.releases.catalogue import count_sids, in_segments, items_among, nameless, segments
from storage.releases.manifest import EncoderRef, Manifest, TrieRef
from storage.releases.releases import PRODUCTION, fit_cutoff_of, published, read_release, record_release, releases
from tokenizer.arrays.types import Codes
from tokenizer.codebook import Codebook
from tokenizer.metrics import EncodingErrors
from tokenizer.trie.trie import Trie

Kind = Literal["bootstrap", "nightly", "backfill"]
# Tables whose versions a release pins.
PINNED = ("items", "interactions", "vectors", "codebooks", "sids", "drift", "quarantine")


@dataclass(frozen=True)
class CandidateInput:
    """The parts of a candidate; `key` identifies it."""

    kind: Kind
    key: str
    snapshot: Snapshot
    artifacts: FittedArtifacts
    assigned: AssignedSegments
    parent: Manifest | None

    @property
    def extended(self) -> Manifest | None:
        """The parent, if it has the same codebook."""
        same = self.parent is not None and self.parent.codebook.id == self.artifacts.codebook.id
        return self.parent if same else None


@step
def make_candidate(run: Run, given: CandidateInput) -> Manifest:
    """Build the trie from the committed SID table and record the manifest under `given.key`, once."""
    snapshot, artifacts, assigned, parent = given.snapshot, given.artifacts, given.assigned, given.parent
    with run.stage("trie") as view:
        versions = {table: run.lake.version(table) for table in PINNED} | snapshot.versions
        run.require_vectors(versions["vectors"])
        trie, removed = _trie(run, given, versions["sids"])
        data = trie.to_bytes()
        digest = run.lake.blobs.put(data)
        view.note(f"{len(trie):,} SIDs, {len(data):,} bytes", sids=len(trie), bytes=len(data))
    reference = TrieRef(sha256=digest, path=f"blobs/{digest[:2]}/{digest}", sids=len(trie))
    with run.stage("gates") as view:
        metrics = {**_metrics(run, given, trie, versions), "removed_items": removed}
        gates = (
            *judge(
                Candidate(metrics, len(trie), parent, _production(run.lake), artifacts.codebook.sizes), run.recipe.gates
            ),
            *judge_by_sql(run.recipe.checks, lambda: _visible_items(run.lake, snapshot), trie),
        )
        failed = [gate for gate in gates if not gate.passed]
        text = ", ".join(f"{gate.name} {gate.value:g} ({gate.severity})" for gate in failed) or "all passed"
        view.note(text, failed=len(failed))

    def manifest(release: str) -> Manifest:
        return Manifest(
            id=release,
            key=given.key,
            kind=given.kind,
            parent=parent.id if parent else None,
            run=run.id,
            created_at=datetime.now(UTC),
            recipe_hash=run.stored_recipe.hash,
            recipe=run.stored_recipe.model_dump(mode="json"),
            as_of=snapshot.as_of,
            cutoff=snapshot.cutoff,
            fit_cutoff=max(artifacts.fit_cutoff, fit_cutoff_of(run.lake, assigned.assignments) or artifacts.fit_cutoff),
            cutoff_date=snapshot.cutoff_date,
            split_rule="events at or after `cutoff` are held out; `fit_cutoff` bounds what vectors and codebook saw",
            versions=versions,
            encoders=artifacts.encoders,
            fusion=EncoderRef(fingerprint=artifacts.fusion.id, details=artifacts.fusion.spec.model_dump(mode="json")),
            fusion_blob=artifacts.fusion_blob,
            codebook=artifacts.codebook_ref,
            assignments=assigned.assignments,
            trie=reference,
            items=len(trie),
            counts={
                "items": len(trie),
                "new_items": assigned.new_items,
                "relocated": assigned.relocated,
                "refit_due": assigned.refit_due,
                "drifted": assigned.drifted,
                **{
                    f"quarantine:{reason}": rows for reason, rows in by_reason(run.lake, versions["quarantine"]).items()
                },
            },
            metrics=metrics,
            gates=gates,
            packages=packages_of_release(run.recipe, addresses_of(run.record.parameters)),
        )

    made, _ = record_release(run.lake, manifest, given.key, run.provenance(**versions))
    run.say(f"  candidate {made.id}: {made.items:,} items, codebook {made.codebook.id}")
    return made


def _trie(run: Run, given: CandidateInput, version: int) -> tuple[Trie, int]:
    """Return the trie of the live SIDs, and the number of items of the parent that it lacks.

    It is an update of the parent's trie if that has the same codebook, else a new one.
    """
    lake = run.lake
    snapshot, codebook, parent = given.snapshot, given.artifacts.codebook, given.extended
    assignments = given.assigned.assignments
    if parent is None or snapshot.as_of < parent.as_of:
        trie = build_trie(live_sids(lake, codebook, assignments, version, snapshot), codebook)
        return trie, given.parent.items - len(kept_codes(run.trie_of(given.parent), trie)[0]) if given.parent else 0
    trie = run.trie_of(parent)
    added = [each for each in assignments if each not in parent.assignments]
    assigned = segments(lake, added, codebook.id, version, columns=["item_id"])["item_id"].to_list()
    touched = sorted({*assigned, *arrived_since(lake, parent, snapshot)["item_id"].to_list()})
    if not touched:
        return trie, 0
    live = live_sids(lake, codebook, assignments, version, snapshot, touched)
    there = {item for item, row in zip(touched, trie.find_rows(touched).tolist(), strict=True) if row >= 0}
    new = ~np.isin(live.items.to_pylist(), sorted(there))
    gone = sorted(there - set(live.items.to_pylist()))
    return trie.updated(live.codes[new], live.items.filter(pa.array(new)), gone), len(gone)


@dataclass(frozen=True)
class LiveSids:
    """Items by id, an Arrow array of N large strings, and their codes, int32 (N, L)."""

    items: pa.Array
    codes: Codes


def live_sids(
    lake: Lake,
    codebook: Codebook,
    assignments: tuple[str, ...],
    version: int,
    snapshot: Snapshot,
    among: list[str] | None = None,
) -> LiveSids:
    """Return the SIDs of the segments, for items that are visible and not deleted; each item has one.

    They are read batch by batch, because a table and a frame of 10 million take 1.5 GB.
    """
    alive = snapshot.alive(lake, None if among is None else pl.Series(among, dtype=pl.String))["item_id"]
    return_freed_memory()
    where = in_segments(codebook.id, assignments) & ~nameless()
    ids, codes = [pa.array([], pa.large_string())], [np.empty((0, len(codebook.sizes)), np.int32)]
    batches = lake.batches("sids", ["item_id", "codes"], where, version=version, among=items_among(among))
    for item, code in batches:
        ids.append(item.cast(pa.large_string()))
        codes.append(code.flatten().to_numpy().reshape(len(code), len(codebook.sizes)))
    found = LiveSids(pa.concat_arrays(ids), np.concatenate(codes))
    del ids, codes
    items = pl.Series(found.items)
    if items.equals(alive):
        return found
    kept = items.is_in(alive.implode()).arg_true()
    rows = kept[items[kept].arg_sort()].to_numpy()
    live = LiveSids(found.items.take(pa.array(rows)), found.codes[rows])
    doubled = pc.equal(live.items[1:], live.items[:-1])
    if pc.any(doubled).as_py():
        names = pc.unique(live.items[1:].filter(doubled)).to_pylist()[:3]
        raise AssertionError(f"items have two SIDs under codebook {codebook.id}: {names}")
    return live


def build_trie(sids: LiveSids, codebook: Codebook) -> Trie:
    return Trie.build(sids.codes, sids.items, codebook.sizes, codebook.spec.collision_policy.shares)


def _metrics(run: Run, given: CandidateInput, trie: Trie, versions: dict[str, int]) -> dict[str, Any]:
    """Return the metrics for gates and report. The encoding error covers the items of the parent and the new ones."""
    artifacts, assigned = given.artifacts, given.assigned
    before = given.extended.metrics if given.extended is not None else {}
    taken = count_sids(run.lake, artifacts.codebook.id, assigned.assignments)
    new = assigned.errors
    total = EncodingErrors(
        new.squared + before.get("squared_error", 0.0), new.spread + before.get("squared_spread", 0.0), len(trie)
    )
    return {
        **table_quality(trie, artifacts.codebook.levels).as_record(),
        "relative_error": total.relative,
        "relative_error_of_new": new.relative if new.items else None,
        "squared_error": total.squared,
        "squared_spread": total.spread,
        **_churn(run.lake, artifacts, trie),
        "new_items": assigned.new_items,
        "new_items_distance": assigned.shift.distance if assigned.shift else None,
        "new_items_beyond_p99": assigned.shift.beyond_p99 if assigned.shift else None,
        "mean_drift": assigned.shift.mean if assigned.shift and given.extended is not None else None,
        "relocated": assigned.relocated,
        "refit_due": assigned.refit_due,
        "drifted": assigned.drifted,
        "capacity_used": taken / artifacts.codebook.planned_items,
        **_new_events(run.lake, given, trie),
        "log_coverage": log_coverage(run.lake, given.snapshot.log, trie),
        **_log_age(run.lake, given.snapshot),
        **_behaviour(run, given, trie),
        **_neighbours(run.lake, given, trie, versions),
    }


def _visible_items(lake: Lake, snapshot: Snapshot) -> pl.DataFrame:
    return snapshot.catalogue(lake).filter(~pl.col("deleted"))


def _production(lake: Lake) -> Manifest | None:
    alias = published(lake, PRODUCTION)
    return read_release(lake, alias.release) if alias is not None else None


def _churn(lake: Lake, artifacts: FittedArtifacts, trie: Trie) -> dict[str, Any]:
    """Return the churn that publishing a refit of production's codebook causes; empty under any other codebook."""
    production = _production(lake)
    if production is None or production.codebook.id != artifacts.codebook_ref.refit_of:
        return {}
    changed = churn(*kept_codes(open_trie(lake, production), trie))
    return {"churn": changed.full_sid, "churn_of_levels": changed.levels}


def _behaviour(run: Run, given: CandidateInput, trie: Trie) -> dict[str, Any]:
    snapshot = given.snapshot
    if snapshot.interactions.version < 0:
        return {}
    negative = run.recipe.train.negative_events
    held_out = HeldOut(snapshot.interactions.version, snapshot.as_of, given.artifacts.fit_cutoff, negative)
    shared = behaviour(run.lake, held_out, trie)
    return shared.as_record() if shared is not None else {}


def _new_events(lake: Lake, given: CandidateInput, trie: Trie) -> dict[str, Any]:
    """Return how many events are newly visible, and the share whose item has no SID; a wrong join shows there."""
    snapshot, parent = given.snapshot, given.parent
    if snapshot.interactions.version < 0:
        return {"new_events": 0, "events_without_sid": 0.0}
    if parent is None:
        log = LogSlice(snapshot.interactions.version, snapshot.as_of, snapshot.as_of)
        counts = item_counts(lake, log, {"events": pl.len()}, ["item_id"])
    else:
        counts = added_events(lake, parent, snapshot, ["item_id"])["item_id"].value_counts(name="events")
    events = int(counts["events"].sum())
    known = int(counts.filter(trie.find_rows(counts["item_id"].to_arrow()) >= 0)["events"].sum())
    return {"new_events": events, "events_without_sid": 1.0 - known / events if events else 0.0}


def _log_age(lake: Lake, snapshot: Snapshot) -> dict[str, float]:
    """Return the days between the newest event and the as-of time, by the bounds of the files of the log."""
    files = lake.data_files("interactions", snapshot.interactions.version)
    newest = [file.bounds["event_time"][1] for file in files if "event_time" in file.bounds]
    if not newest:
        return {}
    return {"log_age_days": max(0.0, (snapshot.as_of - max(newest)).total_seconds() / 86_400)}


def _neighbours(lake: Lake, given: CandidateInput, trie: Trie, versions: dict[str, int]) -> dict[str, list[float]]:
    """Return the neighbourhood preservation on a sample of the release; empty if there are too few items."""
    added, book, parent = None, given.artifacts.codebook, given.extended
    if parent is not None:
        fresh = [each for each in given.assigned.assignments if each not in parent.assignments]
        items = segments(lake, fresh, book.id, versions["sids"], columns=["item_id"])["item_id"].to_list()
        added = Added(items, parent.versions["vectors"], versions["vectors"])
    under = (each.versions["vectors"] for each in releases(lake) if each.codebook.id == book.id)
    shares = neighbours_sharing(lake, given.artifacts.fusion.id, trie, book, next(under, versions["vectors"]), added)
    return {"neighbours_sharing": shares} if shares else {}
