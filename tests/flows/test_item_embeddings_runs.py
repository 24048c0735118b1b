"""Behaviour from the item embeddings of a SASRec through the flows: frozen with the codebook, folded in at night."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from event_files import scalars

from conftest import START, write_items, write_log
from flows.backfill import backfill
from flows.bootstrap import bootstrap
from flows.inspect.verify import verify
from flows.nightly import nightly
from storage.lake import Lake
from storage.releases.releases import read_release

TOWER = {
    "dim": 12,
    "heads": 2,
    "ff": 16,
    "epochs": 30,
    "further_epochs": 15,
    "batch_size": 8,
    "warmup_steps": 5,
    "learning_rate": 0.01,
}


@pytest.mark.slow
def test_a_night_folds_new_items_in_beside_a_sasrec_and_moves_no_vector(
    tmp_path: Path, small: Path, recipe: dict[str, object]
) -> None:
    recipe |= {
        "collaborative": {"method": "sasrec", "dim": 8},
        "sasrec": TOWER,
        "split": {"holdout": 0.0},
    }
    lake = Lake(str(tmp_path / "lake"))
    bootstrap(lake.uri, recipe, [str(small / "items.jsonl")], [str(small / "log.csv")])
    collaborative = pl.col("modality") == "collaborative"
    before = lake.frame("vectors").filter(collaborative)
    assert before.height == 40
    assert before["vector"].list.len().unique().to_list() == [12]
    assert len(scalars(Path(lake.uri) / "tensorboard")["SASRec/loss"]) == 30 + 15
    write_items(small / "night.jsonl", 40, 3)
    known = [f"i{item:04d}" for item in range(40)]
    write_log(small / "night.csv", ["i0040", *known], 20, 400, START + timedelta(days=40))
    made = nightly(lake.uri, None, [str(small / "night.jsonl")], [str(small / "night.csv")])
    after = lake.frame("vectors").filter(collaborative)
    assert after.filter(pl.col("content_hash").is_in(before["content_hash"].unique().to_list())).equals(before)
    assert sorted(set(after["item_id"]) - set(before["item_id"])) == ["i0040"]  # the other two were not taken
    vectors = dict(zip(after["item_id"], np.array(after["vector"].to_list()), strict=True))
    similar = np.array([vectors[item] @ vectors["i0040"] for item in known])
    assert similar[::4].mean() > max(similar[other::4].mean() for other in (1, 2, 3)) + 0.3
    first, second = read_release(lake, "r-000001"), read_release(lake, made["release"])
    assert second.encoders["collaborative"].details["factors"] == first.encoders["collaborative"].details["factors"]
    assert second.encoders["collaborative"].details["sasrec"]["epochs"] == 30

    other = backfill(lake.uri, {**recipe, "collaborative": {"method": "both", "dim": 8}})
    reference = read_release(lake, other["release"]).encoders["collaborative"]
    assert reference.fingerprint != first.encoders["collaborative"].fingerprint
    stored = lake.frame("vectors").filter(collaborative & (pl.col("fingerprint") == reference.fingerprint))
    assert stored["vector"].list.len().unique().to_list() == [20]
    assert [finding for finding in verify(lake) if finding.fault] == []
