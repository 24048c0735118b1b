"""Steps that gather the vectors of items and fuse them, once in a run."""

from dataclasses import dataclass

import polars as pl

from flows.runtime.budget import check_stage_budget
from flows.runtime.run import Run
from flows.steps.behaviour import behaviour_pairs
from flows.steps.fitted_artifacts import FittedArtifacts
from flows.steps.given import Given, is_given
from flows.steps.task import step
from pipelines.fusion.frozen import Fusion
from pipelines.fusion.fuse import Fused, Gathered, fuse, gather
from pipelines.given.inventory import current_pairs
from pipelines.modalities import COLLABORATIVE
from storage.releases.manifest import EncoderRef


@dataclass(frozen=True)
class VectorInputs:
    """Items (item_id, sorted) whose vectors are wanted, their contents by modality (PAIR), and the given vectors."""

    items: pl.DataFrame
    contents: dict[str, pl.DataFrame]
    given: Given


@dataclass(frozen=True)
class ItemVectors:
    """The vectors of catalogue rows in every modality, and the fused vectors of those that have any."""

    gathered: Gathered
    fused: Fused


@step
def item_vectors(run: Run, artifacts: FittedArtifacts, inputs: VectorInputs) -> ItemVectors:
    """Gather the stored vectors of items, and fuse them as fitted."""
    return fuse_gathered(run, artifacts.fusion, gather_inputs(run, inputs, artifacts.encoders))


def fuse_gathered(run: Run, fusion: Fusion, gathered: Gathered) -> ItemVectors:
    """Fuse gathered vectors; the fused vectors that are new are computed and stored."""
    with run.stage("fuse") as view:
        vectors, counts = fuse(run.lake, fusion, gathered, run.provenance(), run.compute.work)
        view.count(counts)
    check_stage_budget(counts, run.recipe.budget)
    return ItemVectors(gathered, vectors)


def gather_inputs(run: Run, inputs: VectorInputs, encoders: dict[str, EncoderRef]) -> Gathered:
    """Return the stored vectors of items in every modality of `encoders`."""
    items, wanted = inputs.items, dict(inputs.contents)
    for name, encoder in encoders.items():
        if is_given(encoder):
            wanted[name] = current_pairs(run.lake, name, encoder.fingerprint, items, inputs.given.pairs(name))
    if COLLABORATIVE in encoders:
        wanted[COLLABORATIVE] = behaviour_pairs(run.lake, encoders[COLLABORATIVE], items["item_id"])
    fingerprints = {name: encoder.fingerprint for name, encoder in encoders.items()}
    return gather(run.lake, items, wanted, fingerprints, run.compute.work)
