"""The stages of a training, and one that goes on from a model on what arrived since."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from event_files import scalars
from test_runs import Recipe, sids, start

from conftest import START, write_log
from flows.nightly import nightly
from flows.recipe import Recipe as Settings
from flows.runtime.run import open_run
from flows.train import resumable_production_model, train
from learning.checkpoint import read_record
from learning.errors import CheckpointMismatch, LossDiverged
from storage.lake import Lake
from storage.releases.models import models, read_model
from storage.releases.releases import published, read_release
from storage.runs.record import runs
from training.errors import HeldOutEventsSeen, NoReference, NothingToTrainOn


def test_what_was_only_shown_is_nothing_to_train_on(tmp_path: Path, small: Path, recipe: Recipe) -> None:
    lake = start(str(tmp_path / "lake"), small, recipe)
    before = published(lake)
    shown = lake.frame("interactions")["event_type"].unique().to_list()
    with pytest.raises(NothingToTrainOn, match=r"there is nothing to train on: .* are only context"):
        train(lake.uri, {**recipe, "train": {**recipe["train"], "negative_events": shown}})  # type: ignore[dict-item]
    with pytest.raises(NoReference, match="train one with another objective first, then add `--since MODEL`"):
        train(lake.uri, {**recipe, "train": {**recipe["train"], "objective": "softmax_dpo"}})  # type: ignore[dict-item]
    assert models(lake) == []
    assert published(lake) == before


@pytest.mark.slow
def test_codes_are_aligned_first_and_a_model_goes_on_from_another_with_what_is_new(
    tmp_path: Path, small: Path, recipe: Recipe
) -> None:
    recipe["train"] = {**recipe["train"], "align_epochs": 2, "workers": 1}  # type: ignore[dict-item]
    recipe["generator"]["max_events"] = 200  # type: ignore[index]
    recipe["split"] = {"holdout": 0.0}
    lake = start(str(tmp_path / "lake"), small, recipe)
    train(lake.uri)
    stages = {stage.name: stage for stage in runs(lake)[-1].stages}
    figures = scalars(Path(lake.uri) / "tensorboard")
    epochs = {label: [step for step, _ in figures[f"{label}/loss"]] for label in ("fusion", "align", "train")}
    assert epochs == {"fusion": [0, 1], "align": [0, 1], "train": [0, 1]}
    losses = [epoch["loss"] for epoch in stages["align"].others["history"]]
    assert len(losses) == 2
    assert losses[1] < losses[0]

    events = lake.rows("interactions")
    write_log(small / "more.csv", sorted(sids(lake, "production")), 20, 150, START + timedelta(days=40))
    nightly(lake.uri, None, [], [str(small / "more.csv")])
    train(lake.uri, since="m-000001")
    assert runs(lake)[-1].parameters["since"] == "m-000001", "else it would not go on from it when it is resumed"
    night = read_release(lake, "production")
    source = f"{night.id}-in-2-since-m-000001"
    rows = lake.frame("sequences").filter(release=source)
    train(lake.uri, {**recipe, "sequences": {"buckets": 3}}, since="m-000001")
    others = lake.frame("sequences").filter(release=f"{night.id}-in-3-since-m-000001")
    assert sorted(others["event_id"]) == sorted(rows["event_id"])
    assert 0 < rows["fresh"].sum() <= 150
    assert rows.height - rows["fresh"].sum() <= events
    stages = {stage.name: stage for stage in runs(lake)[-1].stages}
    assert "align" not in stages
    assert [epoch["targets"] for epoch in stages["train"].others["history"]] == [3 * rows["fresh"].sum()] * 2
    first, second, _ = models(lake)
    assert second.card.identity["start"] is not None
    assert second.release == night.id != first.release
    again = train(lake.uri, since="m-000001")
    assert again["model"] == second.id
    assert len(models(lake)) == 3

    preferring = {**recipe, "train": {**recipe["train"], "objective": "softmax_dpo"}}  # type: ignore[dict-item]
    preferred = read_model(lake, train(lake.uri, preferring, since="m-000001")["model"])
    assert preferred.card.identity["start"] == second.card.identity["start"]
    assert [epoch["targets"] for epoch in preferred.card.history] == [
        lake.frame("sequences").filter(release=f"{night.id}-in-2").height
    ] * 2

    _what_cannot_go_on_is_refused(lake, recipe)
    _production_stays_where_nothing_is_new(lake, small, recipe)
    _a_training_that_diverges_leaves_all_as_it_is(lake, recipe)


def _what_cannot_go_on_is_refused(lake: Lake, recipe: Recipe) -> None:
    first, second, *_ = models(lake)
    with pytest.raises(NothingToTrainOn, match="run without --since"):
        train(lake.uri, {**recipe, "sequences": {"buckets": 3}}, since=second.id)
    other = {**recipe, "generator": {**recipe["generator"], "dim": 64}}  # type: ignore[dict-item]
    with pytest.raises(CheckpointMismatch, match="a different \\[generator\\]"):
        train(lake.uri, other, since="m-000001")

    # A release with an earlier cutoff holds out what the model has learnt from.
    before = len(runs(lake))
    with pytest.raises(HeldOutEventsSeen, match=f"{first.release} holds out events from .* run without --since"):
        train(lake.uri, release=first.release, since=second.id)
    assert len(runs(lake)) == before, "what is asked for wrongly is refused before a run begins"
    with open_run("train", lake.uri, _since_production(recipe), {}) as run:
        assert resumable_production_model(run, read_release(lake, first.release)) is None


def _since_production(recipe: Recipe) -> Recipe:
    return {**recipe, "train": {**recipe["train"], "since_production": True}}  # type: ignore[dict-item]


def _production_stays_where_nothing_is_new(lake: Lake, small: Path, recipe: Recipe) -> None:
    going_on = _since_production(recipe)
    # By the recipe alone, without an event that production has not learnt from, its model stays.
    assert train(lake.uri, going_on)["model"] == published(lake).model  # type: ignore[union-attr]

    # Nor does it go where what is new was only shown.
    write_log(small / "shown.csv", sorted(sids(lake, "production")), 20, 50, START + timedelta(days=50))
    nightly(lake.uri, None, [], [str(small / "shown.csv")])
    shown = lake.frame("interactions")["event_type"].unique().to_list()
    only_shown = {**going_on, "train": {**going_on["train"], "negative_events": shown}}  # type: ignore[dict-item]
    assert train(lake.uri, only_shown)["model"] == published(lake).model  # type: ignore[union-attr]
    assert len(models(lake)) == 4


def _a_training_that_diverges_leaves_all_as_it_is(lake: Lake, recipe: Recipe) -> None:
    # A training that ends in numbers that are none leaves the models, and what is published, as they are.
    current = published(lake)
    wild = {**recipe, "train": {**recipe["train"], "align_epochs": 0, "learning_rate": 1e38}}  # type: ignore[dict-item]
    with pytest.raises(LossDiverged, match="in a step that predicts") as caught:
        train(lake.uri, wild)
    assert runs(lake)[-1].stages[-1].as_record() == {"name": "train", "diverged_on": caught.value.event_ids}
    assert set(caught.value.event_ids) <= set(lake.frame("interactions")["event_id"])
    assert len(models(lake)) == 4
    assert published(lake) == current


@pytest.mark.slow
def test_a_training_whose_process_was_killed_goes_on_with_other_workers_and_another_evaluation(
    tmp_path: Path, small: Path, recipe: Recipe
) -> None:
    recipe["train"] = {**recipe["train"], "workers": 2, "epochs": 12}  # type: ignore[dict-item]
    lake = start(str(tmp_path / "lake"), small, recipe)
    script = "from infra.settings import configure; configure(); from flows.train import train; train(sys.argv[1])"
    command = [sys.executable, "-c", f"import sys; {script}", lake.uri]
    root, training = Path(__file__).parents[2], Path(lake.uri) / "training"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=root, start_new_session=True)
    while not list(training.glob("*/step-*-epoch-00003")) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (kept,) = training.glob("*/step-*-epoch-00003")
    before = read_record(kept).history
    changed = {**recipe, "train": {**recipe["train"], "workers": 1}, "evaluate": {"beams": 30}}  # type: ignore[dict-item]
    train(lake.uri, changed)
    (model,) = models(lake)
    stages = {stage.name: stage for stage in runs(lake)[-1].stages}
    assert stages["train"].others["history"][:3] == list(before), "these epochs were not trained again"
    assert len(stages["train"].others["history"]) == 12
    assert model.card.identity["recipe"] == Settings.model_validate(changed).model_hash
    assert not list(training.iterdir()), "what a training needs to go on is gone once its model is recorded"
    assert train(lake.uri, recipe)["model"] == model.id
