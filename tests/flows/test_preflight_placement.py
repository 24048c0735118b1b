"""`sidmill recipe check` tells of resources of a stage that this machine lacks, as the run itself would refuse them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import SMALL_RECIPE, write_recipe
from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from pipelines.compute.placement import StageError

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
GPU = {"stages": {"embed_text": {"num_gpus": 1}}}
LACKS = "a worker of [compute.stages.embed_text] reserves 1 GPU, and"


def check(small: Path, compute: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and the output of a check of a recipe with a section [compute]."""
    recipe = str(write_recipe(small / "recipe.toml", SMALL_RECIPE))
    stage = compute["stages"]["embed_text"]
    overrides = [f"compute.stages.embed_text.{name}={value}" for name, value in stage.items()]
    overrides += [f"compute.in_process_below={compute['in_process_below']}"] if "in_process_below" in compute else []
    words = ["recipe", "check", "--quick", "--recipe", recipe, "--items", str(small / "items.jsonl")]
    code = run_command([*words, *(word for each in overrides for word in ("--set", each))])
    return code, capsys.readouterr().out


@pytest.mark.usefixtures("ray_cluster")
def test_a_gpu_that_this_machine_lacks_is_a_fault_for_a_check_and_for_the_run(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compute = {**GPU, "in_process_below": 0}
    code, told = check(small, compute, capsys)
    assert code == 1
    assert f"error: {LACKS} this machine has 0 GPU: lower it, or add nodes, or set RAY_ADDRESS" in told
    with pytest.raises(StageError) as refused:
        bootstrap(str(tmp_path / "lake"), {**SMALL_RECIPE, "compute": compute}, [str(small / "items.jsonl")])
    assert str(refused.value).startswith(LACKS)


def test_it_is_a_warning_where_the_run_is_too_small_for_a_cluster(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = check(small, GPU, capsys)
    assert code == 0
    assert f"warning: {LACKS} this machine has 0 GPU" in told
    assert "only runs of fewer than 300 items, as this one," in told


@pytest.mark.parametrize("asked", [{"num_gpus": 0}, {"num_cpus": 1.0, "workers": 2}])
def test_nothing_is_told_of_resources_that_are_here(
    asked: dict[str, Any], small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = check(small, {"stages": {"embed_text": asked}, "in_process_below": 0}, capsys)
    assert (code, "compute.stages" in told) == (0, False)


def test_nothing_is_told_where_a_cluster_elsewhere_does_the_work(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    code, told = check(small, {**GPU, "in_process_below": 0}, capsys)
    assert (code, "compute.stages" in told) == (0, False)
