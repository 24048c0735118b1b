"""Steps that fit collaborative vectors, the fusion and the codebook, or refit a codebook."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from flows.runtime.budget import check_stage_budget
from flows.runtime.run import Run
from flows.snapshot import Snapshot
from flows.steps.behaviour import fit_behaviour, training_input
from flows.steps.fitted_artifacts import FittedArtifacts
from flows.steps.task import step
from flows.steps.trainer import ray_trainer, trainer_in_process
from flows.steps.vectors import ItemVectors, VectorInputs, fuse_gathered, gather_inputs
from learning.threads import one_thread
from learning.trainer import Trainer
from pipelines.collaborative.newest_pairs import NewestPairs
from pipelines.compute.executors import OnRay
from pipelines.fusion.fit import NO_PAIRS, FusionStart, train_fusion
from pipelines.fusion.frozen import Fusion
from pipelines.fusion.fuse import Gathered
from pipelines.level_vectors import level_vectors
from pipelines.modalities import FUSED, StoredModality
from pipelines.sid_table import codes_of
from storage.commit import append
from storage.lake import Lake
from storage.releases.catalogue import segments
from storage.releases.manifest import CodebookRef, EncoderRef, Manifest
from storage.schemas import CODEBOOKS
from tokenizer.arrays.id_rows import IdRows
from tokenizer.arrays.types import Codes
from tokenizer.codebook import Codebook
from tokenizer.fit import fit_codebook
from tokenizer.refit import refit_codebook
from tokenizer.registry import quantizer_of
from tokenizer.spec import RefitSpec


@dataclass(frozen=True)
class RefittedSids:
    """SIDs that a refit found: `codes` int32 (N, L) of N items, -1 for an item without a SID."""

    items: IdRows
    codes: Codes

    def of(self, items: pa.Array) -> Codes:
        """Return the codes of some of the items, int32 (M, L)."""
        rows = self.items.find(items)
        if (rows < 0).any():
            raise AssertionError(f"item {items[int(np.argmin(rows))].as_py()!r} was not there when SIDs were refitted")
        return self.codes[rows]


@dataclass(frozen=True)
class FitInput:
    """The encoders and gathered vectors of a fit, and, for a fusion that learns, pairs of the newest events."""

    encoders: dict[str, EncoderRef]
    gathered: Gathered
    newest: NewestPairs | None


@step
def fit_input(run: Run, snapshot: Snapshot, inputs: VectorInputs, encoders: dict[str, EncoderRef]) -> FitInput:
    """Fit behaviour on the snapshot, and gather the vectors of its items."""
    references, newest = fit_behaviour(run, snapshot)
    encoders = {**encoders, **references}
    return FitInput(encoders, gather_inputs(run, inputs, encoders), newest)


@step
def fit(run: Run, snapshot: Snapshot, found: FitInput) -> tuple[FittedArtifacts, ItemVectors]:
    """Fit artifacts and store them by hash; the same input gives the same. Return the vectors of the items too."""
    gathered, newest = found.gathered, found.newest
    with run.stage("fit fusion") as view:
        fusion = _fit_fusion(run, gathered, newest)
        blob = run.lake.blobs.put(fusion.to_bytes())
        rows = ", ".join(f"{name} {rows:,}" for name, rows in fusion.statistics["rows"].items())
        pairs = f", {fusion.statistics['pairs']:,} pairs" if "pairs" in fusion.statistics else ""
        if newest is not None and newest.one_in > 1:
            pairs += f" (one in {newest.one_in} of the newest)"
        view.note(f"{fusion.spec.method} over {rows}{pairs}; {run.compute.name}", **fusion.statistics)
    vectors = fuse_gathered(run, fusion, gathered)
    with run.stage("fit codebook") as view:
        spec = run.recipe.codebook
        levels = tuple(dict.fromkeys(level.source for level in spec.levels))
        absent = [name for name in spec.fit_sources if name not in (FUSED, *gathered.modalities)]
        if absent:
            raise ValueError(
                f"the levels of the codebook encode {', '.join(map(repr, absent))}, but no item has such a vector; the "
                f"items have {', '.join([FUSED, *sorted(gathered.modalities)])}: change codebook.levels, or make those "
                "vectors"
            )
        sources = level_vectors(run.lake, vectors.fused, gathered, levels, run.provenance(), spec.fit_sources)
        check_stage_budget(sources.counts, run.recipe.budget)
        codebook = fit_codebook(sources.vectors, sources.items, spec, run.compute.work, _codebook_trainer(run))
        reference = _store_codebook(run, codebook)
        shape = " x ".join(str(size) for size in codebook.sizes)
        view.note(f"{spec.quantizer} {shape} ({codebook.id}); {run.compute.name}", **codebook.statistics)
    return FittedArtifacts(found.encoders, fusion, blob, codebook, reference, snapshot.cutoff), vectors


@step
def refit(
    run: Run, artifacts: FittedArtifacts, vectors: ItemVectors, manifest: Manifest, spec: RefitSpec
) -> tuple[FittedArtifacts, RefittedSids]:
    """Refit the codebook of a release to items under a churn budget; return the artifacts and the SIDs of the items."""
    with run.stage("refit codebook") as view:
        if run.recipe.codebook != artifacts.codebook.spec:
            raise ValueError(
                f"a refit keeps the [codebook] of {manifest.id}, but that section of the recipe differs; remove "
                "[refit] to fit a new codebook, or restore [codebook]"
            )
        sources = level_vectors(run.lake, vectors.fused, vectors.gathered, artifacts.codebook.sources, run.provenance())
        check_stage_budget(sources.counts, run.recipe.budget)
        items = sources.items[:]
        codes = _published_codes(run.lake, manifest, artifacts.codebook, items)
        made = refit_codebook(artifacts.codebook, sources.vectors, items, codes, spec, run.compute.work)
        for point in made.frontier:
            run.say(f"    churn {point['churn']:.2%}  relative error {point['relative_error']:.5f}")
        reference = _store_codebook(run, made.codebook, refit_of=artifacts.codebook.id)
        view.note(f"{artifacts.codebook.id} -> {made.codebook.id}; {run.compute.name}", frontier=made.frontier)
    return replace(artifacts, codebook=made.codebook, codebook_ref=reference), RefittedSids(IdRows(items), made.codes)


def _published_codes(lake: Lake, manifest: Manifest, codebook: Codebook, items: pa.Array) -> Codes:
    """Return the codes of items in a release, int32 (N, L), -1 for an item without a SID."""
    rows = segments(lake, list(manifest.assignments), codebook.id, columns=["item_id", "codes"])
    place = IdRows(rows["item_id"].to_arrow().cast(pa.large_string())).find(items)
    codes = np.full((len(items), len(codebook.sizes)), -1, np.int32)
    codes[place >= 0] = codes_of(rows, codebook)[place[place >= 0]]
    return codes


def _fit_fusion(run: Run, gathered: Gathered, newest: NewestPairs | None) -> Fusion:
    """Train in one task, or on several workers of Ray Train if the run is on Ray and the recipe asks for them."""
    spec, items, pairs = run.recipe.fusion, gathered.modalities, NO_PAIRS
    with one_thread():
        start = FusionStart.of(items, spec, run.compute.work)
    if newest is not None:
        items, pairs = training_input(gathered, newest)
    shared = {name: StoredModality(run.compute.shared(each.rows), each.present) for name, each in items.items()}
    if spec.workers == 1 or not isinstance(run.compute, OnRay):
        return run.compute.run(train_fusion, start, shared, pairs, trainer_in_process(run))
    with one_thread():
        return train_fusion(start, shared, pairs, ray_trainer(run))


def _codebook_trainer(run: Run) -> Trainer:
    """Return the trainer of a learned quantizer's network: Ray Train if the run is on Ray, else this process."""
    trained = quantizer_of(run.recipe.codebook).trained
    return ray_trainer(run) if trained and isinstance(run.compute, OnRay) else trainer_in_process(run)


def _store_codebook(run: Run, codebook: Codebook, refit_of: str | None = None) -> CodebookRef:
    blob = run.lake.blobs.put(codebook.to_bytes())
    row = {
        "codebook": codebook.id,
        "vocabulary": codebook.vocabulary,
        "blob": blob,
        "spec": codebook.spec.model_dump_json(),
        "statistics": json.dumps(codebook.statistics, sort_keys=True),
        "planned_items": codebook.planned_items,
        "fitted_items": codebook.fitted_items,
        "at": datetime.now(UTC),
        "run": run.id,
    }
    table = pa.Table.from_pylist([row], schema=CODEBOOKS.schema)
    append(run.lake, "codebooks", table, f"codebook:{codebook.id}", run.provenance())
    return CodebookRef(
        id=codebook.id,
        blob=blob,
        sizes=codebook.sizes,
        vocabulary=codebook.vocabulary,
        fitted_by=run.id,
        refit_of=refit_of,
    )
