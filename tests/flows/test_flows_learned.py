"""Learned quantizers through the flows: what is published stays, as under any other codebook."""

from pathlib import Path

import numpy as np
import pytest

from conftest import write_items
from flows.backfill import backfill
from flows.bootstrap import bootstrap
from flows.diff import open_trie
from flows.nightly import nightly
from flows.verify import verify
from storage.lake import Lake
from storage.releases import published, read_release
from tokenizer.codebook import Codebook

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


@pytest.mark.usefixtures("ray_cluster")
def test_rq_vae_from_bootstrap_over_a_night_to_a_backfill_on_ray_train(
    tmp_path: Path, small: Path, recipe: dict[str, object]
) -> None:
    levels = [{"codes": 8}, {"codes": 8}, {"codes": 8}]
    recipe["codebook"] = {"quantizer": "rq-vae", "levels": levels, "vae": VAE}
    lake = Lake(str(tmp_path / "lake"))
    bootstrap(lake.uri, recipe, [str(small / "items.jsonl")], [str(small / "log.csv")])
    first = sids(lake, "production")
    assert len(first) == 40

    write_items(small / "night.jsonl", 40, 8)
    assert nightly(lake.uri, None, [str(small / "night.jsonl")])["made"]
    second = sids(lake, "production")
    assert len(second) == 48
    assert {item: second[item] for item in first} == first

    # The 8 items of the night have no behaviour yet; the alignment goes without them.
    learned = {**VAE, "collaborative": "collaborative", "alignment": 0.1, "workers": 2}
    other = {
        **recipe,
        "codebook": {"quantizer": "rq-vae", "levels": levels, "vae": learned},
        "compute": {"in_process_below": 0},
    }
    made = backfill(lake.uri, other)
    assert published(lake).release == "r-000002"  # type: ignore[union-attr]
    assert sids(lake, "production") == second
    assert sids(lake, made["release"]).keys() == second.keys()
    assert list((tmp_path / "lake" / "training").glob("codebook-*"))
    assert [finding for finding in verify(lake) if finding[2]] == []
