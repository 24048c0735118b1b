"""A model that is worse than a baseline is told so, and a run publishes it only where the recipe lets it."""

from pathlib import Path
from typing import Any

import pytest
from test_lake_state import TEXT_ALONE, WHO, row

from conftest import write_items
from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from flows.gates.model_gate import judge_model, may_be_worse
from flows.inspect.evaluation_tables import evaluation_tables, verdicts
from flows.recipe import RecipeError, load_recipe
from flows.runtime.run import open_run
from flows.steps.publish import publish_model
from flows.watch.health import problems
from flows.watch.spec import WatchSpec
from storage.lake import Lake
from storage.releases.evaluation import EvaluationResult
from storage.releases.models import ModelCard, TrainedModel, record_evaluation, record_model
from storage.releases.pointers import Published
from storage.releases.releases import published, read_release


def against(**verdict: str) -> dict[str, Any]:
    sides = {"beats": 0.02, "not told apart": 0.0, "is worse": -0.02}
    return {
        name.replace("_", "-"): {
            "k": 10,
            "difference": sides[told],
            "interval": [sides[told] - 0.01, sides[told] + 0.01],
            "won": 30,
            "lost": 20,
            "verdict": told,
        }
        for name, told in verdict.items()
    }


COUNTS = {"cases": 900, "targets_missing": 0, "targets_seen": 0}


def evaluation(rows: dict[str, Any] | None = None, **verdict: str) -> EvaluationResult:
    """An evaluation that says so of each baseline."""
    return EvaluationResult.of({**(rows or {}), **COUNTS, "protocol": "test", "against": against(**verdict)})


def evaluated(lake: Lake, key: str, **verdict: str) -> str:
    """A recorded model of the first release, whose evaluation says so of each baseline."""
    manifest = read_release(lake, "r-000001")
    weights = lake.blobs.put(key.encode())
    card = ModelCard.model_validate({"history": [], "identity": {}})
    model = record_model(lake, TrainedModel(key, manifest.id, manifest.codebook.vocabulary, weights, card), WHO)
    if verdict:
        record_evaluation(lake, key, model, manifest.id, evaluation({"generator": row(0.05)}, **verdict), WHO)
    return model


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    write_items(tmp_path / "items.jsonl", 0, 24)
    bootstrap(str(tmp_path / "lake"), TEXT_ALONE, [str(tmp_path / "items.jsonl")])
    return Lake(str(tmp_path / "lake"))


def publish_trained(lake: Lake, model: str, recipe: dict[str, Any] = TEXT_ALONE) -> bool:
    with open_run("train", lake.uri, recipe, {}) as run:
        return publish_model(run, read_release(lake, "r-000001"), model)


def test_a_run_keeps_a_worse_model_from_production_and_says_how_to_publish_it(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = evaluated(lake, "worse", popularity="is worse", item_knn="beats")
    assert not publish_trained(lake, worse)
    told = capsys.readouterr().out
    assert f"{worse} is not published, because it is worse than popularity." in told
    assert f"`sidmill release publish r-000001 --model {worse}`" in told
    assert published(lake) == Published("r-000001", None)

    # Who names no model does not choose this one, and is told about it; who names it does.
    assert run_command(["release", "publish", "r-000001", "--lake", lake.uri]) == 0
    told = capsys.readouterr().out
    assert "production -> (r-000001, no model)" in told
    assert f"--model {worse}` publishes it" in told
    assert run_command(["release", "publish", "r-000001", "--model", worse, "--lake", lake.uri]) == 0
    assert published(lake) == Published("r-000001", worse)


def test_a_model_that_was_kept_back_is_a_problem_until_another_is_trained_or_a_person_publishes_it(lake: Lake) -> None:
    def problem_after_training(model: str) -> list[str]:
        with open_run("train", lake.uri, TEXT_ALONE, {}) as run:
            published_now = publish_model(run, read_release(lake, "r-000001"), model)
            run.done(model=model, release="r-000001", published=published_now)
        return [each.name for each in problems(lake, WatchSpec())]

    worse = evaluated(lake, "worse", popularity="is worse", item_knn="beats")
    assert problem_after_training(worse) == ["blocked train"]
    assert f"{worse} is not published, because it is worse than popularity" in problems(lake, WatchSpec())[0].message
    assert problem_after_training(evaluated(lake, "better", popularity="beats", item_knn="beats")) == []
    again = evaluated(lake, "again", popularity="is worse", item_knn="beats")
    assert problem_after_training(again) == ["blocked train"]
    assert run_command(["release", "publish", "r-000001", "--model", again, "--lake", lake.uri]) == 0
    assert problems(lake, WatchSpec()) == []


@pytest.mark.parametrize("severity", ["block", "warn"])
def test_the_recipe_of_a_release_decides_whether_a_worse_model_is_chosen_for_it(tmp_path: Path, severity: str) -> None:
    write_items(tmp_path / "items.jsonl", 0, 24)
    recipe = {**TEXT_ALONE, "gates": {"model_against_baselines": {"severity": severity}}}
    bootstrap(str(tmp_path / "lake"), recipe, [str(tmp_path / "items.jsonl")])
    lake = Lake(str(tmp_path / "lake"))
    worse = evaluated(lake, "worse", popularity="is worse")
    assert run_command(["release", "publish", "r-000001", "--lake", lake.uri]) == 0
    assert published(lake) == Published("r-000001", worse if severity == "warn" else None)
    before_that_gate = read_release(lake, "r-000001").model_copy(update={"recipe": {"gates": {}}})
    assert not may_be_worse(before_that_gate)


def test_a_recipe_may_let_worse_models_pass_and_what_is_not_told_apart_passes_with_a_warning(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = evaluated(lake, "worse", popularity="is worse", item_knn="is worse")
    assert publish_trained(lake, worse, {**TEXT_ALONE, "gates": {"model_against_baselines": {"severity": "warn"}}})
    assert f"warning: {worse} is worse than item-knn and popularity" in capsys.readouterr().out
    alike = evaluated(lake, "alike", popularity="not told apart", item_knn="beats")
    assert publish_trained(lake, alike)
    assert f"warning: {alike} does not clearly differ from popularity" in capsys.readouterr().out
    better = evaluated(lake, "better", popularity="beats", item_knn="beats")
    assert publish_trained(lake, better)
    assert "warning" not in capsys.readouterr().out
    unjudged = evaluated(lake, "unjudged")
    assert publish_trained(lake, unjudged)
    assert "was not compared with baselines" in capsys.readouterr().out
    assert published(lake) == Published("r-000001", unjudged)


def test_the_gate_of_models_changes_no_identity_of_a_release_or_a_model() -> None:
    plain = load_recipe("default")
    warns = load_recipe("default", ["gates.model_against_baselines.severity=warn"])
    assert warns.gates.model_against_baselines.severity == "warn"
    assert (plain.hash, plain.model_hash) == (warns.hash, warns.model_hash)
    with pytest.raises(RecipeError, match="no such field; the fields here are severity"):
        load_recipe("default", ["gates.model_against_baselines.limit=1"])


@pytest.mark.parametrize("verdict", ["beats", "not told apart", "is worse"])
@pytest.mark.parametrize("severity", ["block", "warn"])
def test_only_what_is_worse_is_kept_back_and_only_where_the_gate_blocks(verdict: str, severity: Any) -> None:
    found = judge_model("m-000001", "r-000001", evaluation(popularity=verdict), severity)
    assert found.publishable == (verdict != "is worse" or severity == "warn")
    assert bool(found.message) == (verdict != "beats")


def test_each_baseline_is_named_beside_what_it_decides_and_a_model_nobody_judged_passes() -> None:
    both = evaluation(popularity="is worse", item_knn="is worse", random="beats")
    blocked = judge_model("m-000001", "r-000001", both, "block").message
    assert "m-000001 is not published, because it is worse than item-knn and popularity." in blocked
    assert "worse than item-knn and popularity; the recipe" in judge_model("m", "r", both, "warn").message
    alike = evaluation(popularity="not told apart", item_knn="beats")
    assert judge_model("m", "r", alike, "block").message == "warning: m does not clearly differ from popularity"
    for nothing in (None, evaluation()):
        found = judge_model("m", "r", nothing, "block")
        assert found.publishable
        assert "was not compared with baselines" in found.message


def test_the_verdict_stands_in_the_evaluation_with_its_interval() -> None:
    result = evaluation({"generator": row(0.05)}, popularity="is worse")
    assert verdicts(result) == ["recall@10 is worse than popularity: difference -0.0200 (95 % -0.0300 to -0.0100)"]
    titles = {table.title: table for table in evaluation_tables(result)}
    assert titles["The generator against baselines"].rows[0][-1] == "worse"
