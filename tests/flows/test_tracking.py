"""Figures of a training for TensorBoard and MLflow; what cannot be written ends no training."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from event_files import scalars
from mlflow import MlflowClient
from tensorboardX.event_file_writer import EventsWriter

from flows.runtime.run import Run, open_run
from flows.runtime.tracking import EXPERIMENT, KEY, RECEIVER, Figures
from storage.commit import Provenance
from storage.lake import Lake
from storage.releases.evaluation import EvaluationResult
from storage.releases.models import models
from storage.releases.releases import read_release
from storage.retention.collect import collect
from storage.retention.policy import Policy

ROWS = [{"epoch": 0.0, "loss": 2.5, "tokens_per_s": 10.0}, {"epoch": 1.0, "loss": 1.5, "tokens_per_s": 12.0}]
ROW = {"mrr": 0.125, "recall@10": 0.25, "beats": True}
RESULT = EvaluationResult.of({"generator": ROW, "cases": 7, "targets_missing": 0, "targets_seen": 0})


def opened(lake: Lake) -> "Run":
    return open_run("train", lake.uri, read_release(lake, "production").recipe, {})  # type: ignore[return-value]


@pytest.mark.parametrize("wanted", [True, False])
def test_epochs_and_evaluations_are_scalars_of_tensorboard_and_of_mlflow_where_it_is_wanted(
    wanted: bool, lake_of_format_2: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that goes on in another process continues its run of MLflow."""
    lake, uri = lake_of_format_2, f"sqlite:///{tmp_path}/mlflow.db"
    if wanted:
        monkeypatch.setenv(RECEIVER, uri)
    key = models(lake)[0].key
    for row in ROWS:
        with opened(lake) as run:
            Figures(run, key, {"sidmill.release": "r-000001"}).epoch("train", row)
    with opened(lake) as run:
        Figures(run, key, {}).evaluated(RESULT, 2)
    found = scalars(Path(lake.uri) / "tensorboard" / key)
    assert found == {
        "train/loss": [(0, 2.5), (1, 1.5)],
        "train/tokens_per_s": [(0, 10.0), (1, 12.0)],
        "generator/mrr": [(2, 0.125)],
        "generator/recall_at_10": [(2, 0.25)],
    }
    if wanted:
        client = MlflowClient(uri)
        (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
        assert (run.data.tags[KEY], run.data.tags["sidmill.release"]) == (key, "r-000001")
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert [(each.step, each.value) for each in history] == [(0, 2.5), (1, 1.5)]


def test_a_server_that_does_not_answer_is_told_once_and_ends_no_training(
    lake_of_format_2: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RECEIVER, "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with opened(lake_of_format_2) as run:
        figures = Figures(run, "key", {})
        for row in ROWS:
            figures.epoch("train", row)
    assert capsys.readouterr().out.count("warning: MLflow got no figures") == 1
    assert len(scalars(Path(lake_of_format_2.uri) / "tensorboard" / "key")["train/loss"]) == 2


def test_a_figure_is_encoded_once_however_many_epochs_follow(
    lake_of_format_2: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, encoded = EventsWriter.write_event, list[object]()
    monkeypatch.setattr(EventsWriter, "write_event", lambda self, event: encoded.append(event) or written(self, event))
    with opened(lake_of_format_2) as run:
        figures = Figures(run, "key", {})
        for epoch in range(20):
            figures.epoch("train", {"epoch": float(epoch), "loss": epoch / 4})
    found = scalars(Path(lake_of_format_2.uri) / "tensorboard" / "key")
    assert found == {"train/loss": [(epoch, epoch / 4) for epoch in range(20)]}
    assert len(encoded) == 20 * 2, "one scalar an epoch, and the version of the format"


def test_figures_go_with_their_model_or_codebook(lake_of_format_2: Lake) -> None:
    lake = lake_of_format_2
    kept = {models(lake)[0].key, read_release(lake, "production").codebook.fitted_by}
    with opened(lake) as run:
        for key in (*kept, "abandoned"):
            Figures(run, key, {}).epoch("train", ROWS[0])
    later = datetime.now(UTC) + timedelta(days=30)
    collect(lake, Policy(grace=timedelta(days=1)), Provenance("test", ""), remove=True, now=later)
    assert {path.name for path in (Path(lake.uri) / "tensorboard").iterdir() if any(path.iterdir())} == kept


def test_figures_are_written_without_pytorch_and_tensorboard_can_be_imported_after() -> None:
    """The process of a run has no other use for it: its fits and its fusing are done by workers."""
    program = (
        "import sys; from flows.runtime.tracking import _tensorboard\n"
        "writer, event = _tensorboard(); event(step=1, summary={'value': [{'tag': 'a', 'simple_value': 0.5}]})\n"
        "assert 'torch' not in sys.modules, 'torch is imported'\n"
        "import tensorboardX; tensorboardX.SummaryWriter\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
