"""Learned quantizers through the flows: what is published stays, as under any other codebook."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_files import scalars

from conftest import write_items
from flows.backfill import backfill
from flows.bootstrap import bootstrap
from flows.inspect.verify import verify
from flows.nightly import nightly
from flows.runtime.run import Run
from flows.steps.fit import fit
from flows.steps.fitted_artifacts import FittedArtifacts
from flows.train import train
from pipelines.compute.executors import OnRay
from sidmill.release import open_trie
from storage.lake import Lake
from storage.releases.models import evaluations
from storage.releases.releases import published, read_release
from tokenizer.codebook import Codebook
from tokenizer.registry import QUANTIZERS

VAE = {"hidden": [24, 16], "latent": 8, "epochs": 3, "steps": 20, "batch_size": 32, "learning_rate": 0.01}


def sids(lake: Lake, release: str) -> dict[str, tuple[int, ...]]:
    """SID of each item, after a look at uniqueness and capacity."""
    manifest = read_release(lake, release)
    trie = open_trie(lake, manifest)
    codes = trie.codes()
    assert len(np.unique(codes, axis=0)) == len(codes)
    codebook = Codebook.from_bytes(lake.blobs.get(manifest.codebook.blob))
    for level, capacity in enumerate(codebook.capacity):
        assert np.bincount(codes[:, level]).max() <= capacity
    return {item: tuple(code) for item, code in zip(trie.item_ids.to_pylist(), codes.tolist(), strict=True)}


LEVELS = [{"codes": 8}, {"codes": 8}, {"codes": 8}]
# Items of a night have no behaviour yet: the alignment goes without them.
ALIGNED = {**VAE, "collaborative": "collaborative", "alignment": 0.1}


def test_rq_vae_from_bootstrap_over_a_night_to_a_backfill(
    tmp_path: Path, small: Path, recipe: dict[str, object]
) -> None:
    recipe["codebook"] = {"quantizer": "rq-vae", "levels": LEVELS, "vae": VAE}
    lake = Lake(str(tmp_path / "lake"))
    bootstrap(lake.uri, recipe, [str(small / "items.jsonl")], [str(small / "log.csv")])
    first = sids(lake, "production")
    assert len(first) == 40
    fitted_by = read_release(lake, "production").codebook.fitted_by
    figures = scalars(Path(lake.uri) / "tensorboard" / fitted_by)
    assert [step for step, _ in figures["codebook/loss"]] == [0, 1, 2]

    write_items(small / "night.jsonl", 40, 8)
    assert nightly(lake.uri, None, [str(small / "night.jsonl")])["made"]
    second = sids(lake, "production")
    assert len(second) == 48
    assert {item: second[item] for item in first} == first

    made = backfill(lake.uri, {**recipe, "codebook": {"quantizer": "rq-vae", "levels": LEVELS, "vae": ALIGNED}})
    assert published(lake).release == "r-000002"  # type: ignore[union-attr]
    assert sids(lake, "production") == second
    assert sids(lake, made["release"]).keys() == second.keys()
    assert [finding for finding in verify(lake) if finding.fault] == []


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["fsq", "rq-opq", "pq", "hierarchical", "lsh", "random"])
def test_every_other_quantizer_from_bootstrap_over_a_night(
    tmp_path: Path, small: Path, recipe: dict[str, object], quantizer: str
) -> None:
    recipe["codebook"] = {
        "quantizer": quantizer,
        "levels": LEVELS,
        **({"vae": VAE} if QUANTIZERS.get(quantizer).trained else {}),
    }
    if quantizer == "random":  # its codes say nothing of an item
        recipe["gates"] = {"relative_error": {"severity": "warn"}}
    lake = Lake(str(tmp_path / "lake"))
    bootstrap(lake.uri, recipe, [str(small / "items.jsonl")], [str(small / "log.csv")])
    first = sids(lake, "production")
    write_items(small / "night.jsonl", 40, 8)
    assert nightly(lake.uri, None, [str(small / "night.jsonl")])["made"]
    second = sids(lake, "production")
    assert len(second) == 48
    assert {item: second[item] for item in first} == first


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.usefixtures("ray_cluster")
def test_a_fit_on_ray_is_trained_by_ray_train_and_a_generator_learns_its_sids(
    tmp_path: Path, small: Path, recipe: dict[str, object], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The fit alone is put on Ray: with 40 items all else runs in process."""

    def fit_on_ray(run: Run, *arguments: Any) -> FittedArtifacts:
        here, run.compute = run.compute, OnRay(run.recipe.compute)
        try:
            return fit(run, *arguments)
        finally:
            run.compute = here

    monkeypatch.setattr("flows.candidates.fit", fit_on_ray)
    recipe["codebook"] = {"quantizer": "rq-vae", "levels": LEVELS, "vae": {**ALIGNED, "workers": workers}}
    recipe["train"] = {"workers": 1, "epochs": 6}
    recipe["evaluate"] = {"exclude_seen": False}
    lake = Lake(str(tmp_path / "lake"))
    bootstrap(lake.uri, recipe, [str(small / "items.jsonl")], [str(small / "log.csv")])
    assert len(sids(lake, "production")) == 40
    (run,) = (tmp_path / "lake" / "training").glob("codebook-*")
    assert len(list(run.glob("step-*"))) == 2  # the last two of three are kept
    train(lake.uri)
    (stored,) = evaluations(lake)
    result = stored.result
    assert result.targets_missing == 0 < result.cases
    assert result.rankers["generator"].accuracy.recall[10] > result.rankers["popularity"].accuracy.recall[10]
