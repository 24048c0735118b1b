"""A lake and its sources in an object store: a bootstrap, a night and a training by command, as on a disk."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from test_runs import sids

from conftest import SMALL_RECIPE, write_items, write_log, write_recipe
from storage.lake import Lake
from storage.releases.models import models_of


def run(*arguments: str) -> str:
    """Run a command in a process of its own, as a schedule does. Returns its output."""
    command = [sys.executable, "-m", "flows.cli.main", *arguments]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_bootstrap_and_a_night_in_an_object_store_give_the_sids_of_a_disk_and_a_training_ends(
    s3_bucket: str, tmp_path: Path
) -> None:
    rows = write_items(tmp_path / "in" / "items-1.jsonl", 0, 80)
    write_items(tmp_path / "in" / "items-2.jsonl", 80, 10)
    write_log(tmp_path / "in" / "log-1.csv", [str(row["item_id"]) for row in rows], users=30, events=600)
    recipe = str(write_recipe(tmp_path / "recipe.toml", SMALL_RECIPE))
    pafs.copy_files(str(tmp_path / "in"), f"{s3_bucket}/in", use_threads=False)
    lakes = {str(tmp_path / "lake"): str(tmp_path / "in"), f"{s3_bucket}/lake": f"{s3_bucket}/in"}
    for lake, inputs in lakes.items():
        run(
            "run",
            "bootstrap",
            "--lake",
            lake,
            "--recipe",
            recipe,
            "--items",
            f"{inputs}/items-1*",
            "--interactions",
            f"{inputs}/log-*.csv",
        )
        run("run", "nightly", "--lake", lake, "--items", f"{inputs}/items-*.jsonl")
        assert "0 wrong" in run("lake", "verify", "--lake", lake)
    for release in ("r-000001", "r-000002"):
        on_disk, in_store = (sids(Lake(lake), release) for lake in lakes)
        assert len(on_disk) in (80, 90)
        assert on_disk == in_store
    store = f"{s3_bucket}/lake"
    assert "train epoch 2 of 2" in run("run", "train", "--lake", store)
    (model,) = models_of(Lake(store), "r-000002")
    assert len(model.card.history) == 2
    assert "1 releases stay" in run("lake", "gc", "--keep", "1", "--grace", "0s", "--yes", "--lake", store)
    assert "0 wrong" in run("lake", "verify", "--lake", store)
    run("lake", "backup", f"{s3_bucket}/backup", "--lake", store)
    run("lake", "restore", f"{s3_bucket}/backup", "--lake", str(tmp_path / "restored"))
    assert "0 wrong" in run("lake", "verify", "--lake", str(tmp_path / "restored"))
    assert sids(Lake(str(tmp_path / "restored")), "r-000002") == sids(Lake(store), "r-000002")
