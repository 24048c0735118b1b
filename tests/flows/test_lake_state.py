"""The state of a lake as an operator sees it: the last run and its end, production, and the model that it serves."""

import json
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_releases import publish

import sidmill
from conftest import write_items
from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from flows.inspect.lake_state import age, lake_state
from flows.nightly import nightly
from storage.commit import Provenance
from storage.errors import QuarantineBudgetExceeded
from storage.lake import Lake
from storage.releases.evaluation import EvaluationResult
from storage.releases.manifest import Manifest
from storage.releases.models import ModelCard, TrainedModel, record_evaluation, record_model
from storage.releases.publishing import hold
from storage.releases.releases import read_release
from storage.runs.record import RunRecord, runs

WHO = Provenance("test", "")
TEXT_ALONE = {
    "text": {"encoder": "packaged-minilm", "fields": ["title"]},
    "fusion": {"dim": 16, "hidden": 16, "epochs": 1, "steps": 5, "batch_size": 64},
    "codebook": {"levels": [{"codes": 8}, {"codes": 8}, {"codes": 8}]},
}


def row(recall: float) -> dict[str, Any]:
    """A recommender's row of an evaluation, as far as it is shown everywhere."""
    return {"recall@10": recall, "ndcg@10": recall / 2, "mrr": recall / 3}


def with_model(lake: Lake, manifest: Manifest, key: str = "one") -> str:
    """A model of a release that is recorded and evaluated."""
    card = ModelCard.model_validate({"history": [{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0}], "identity": {}})
    model = record_model(
        lake, TrainedModel(key, manifest.id, manifest.codebook.vocabulary, lake.blobs.put(key.encode()), card), WHO
    )
    result = {
        "generator": row(0.0625),
        "popularity": row(0.05),
        "cases": 321,
        "targets_missing": 0,
        "targets_seen": 0,
        "protocol": "test",
    }
    record_evaluation(lake, f"evaluation {key}", model, manifest.id, EvaluationResult.of(result), WHO)
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake whose production is a night's release, with a model that was trained on the release before."""
    folder = tmp_path_factory.mktemp("state")
    lake = Lake(str(folder / "lake"))
    write_items(folder / "items.jsonl", 0, 24)
    bootstrap(lake.uri, TEXT_ALONE, [str(folder / "items.jsonl")])
    publish(lake, "r-000001", WHO, with_model(lake, read_release(lake, "r-000001")))
    write_items(folder / "night.jsonl", 24, 4)
    nightly(lake.uri, None, [str(folder / "night.jsonl")])
    return folder / "lake"


@pytest.fixture
def night(made: Path, tmp_path: Path) -> Lake:
    """A copy of that lake for one test."""
    shutil.copytree(made, tmp_path / "lake")
    return Lake(str(tmp_path / "lake"))


def out_of(capsys: pytest.CaptureFixture[str], *command: str, lake: Lake) -> str:
    capsys.readouterr()
    assert run_command([*command, "--lake", lake.uri]) == 0
    return capsys.readouterr().out


def test_a_night_that_failed_is_the_first_thing_that_status_and_report_say(
    night: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"title": "no id"}\n' * 50)
    with pytest.raises(QuarantineBudgetExceeded):
        nightly(night.uri, None, [str(tmp_path / "bad.jsonl")])
    last = json.loads(out_of(capsys, "lake", "status", "--json", lake=night))["last_run"]
    assert (last["kind"], last["state"]) == ("nightly", "failed")
    assert "bad.jsonl" in last["error"]
    assert datetime.fromisoformat(last["ended"]) <= datetime.now(UTC)
    told = out_of(capsys, "lake", "status", lake=night).splitlines()
    assert told[1].startswith("last run: nightly failed, ended ")
    assert "bad.jsonl" in told[1]
    page = tmp_path / "page.html"
    out_of(capsys, "report", "--output", str(page), lake=night)
    body = page.read_text().split("<body>")[1]
    assert body.index("last run: nightly failed, ended ") < body.index("<h1>")

    # Another kind of run that ends well does not hide it; a night that ends well does.
    later = RunRecord(night, "evaluate-20990101T000000-000000", "evaluate", "", {})
    later.begin()
    later.end("finished", {"model": "m-000001"})
    lines = lake_state(night).lines
    assert lines[0].startswith("last run: evaluate finished")
    assert lines[1].startswith("unresolved failure: nightly failed")
    mended = RunRecord(night, "nightly-20990102T000000-000000", "nightly", "", {})
    mended.begin()
    mended.end("finished", {"release": "r-000003", "published": False})
    lines = lake_state(night).lines
    assert lines[0].endswith(": r-000003, not published")
    assert not any(line.startswith("unresolved failure") for line in lines)


def test_after_a_night_status_report_and_release_show_the_model_that_production_serves(
    night: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = json.loads(out_of(capsys, "lake", "status", "--json", lake=night))
    production = status["production"]
    assert (production["release"], production["model"]) == ("r-000002", "m-000001")
    figures = {"recall@10": 0.0625, "ndcg@10": 0.03125, "against": {}}
    assert production["evaluation"] == {"release": "r-000001", "cases": 321, **figures}
    told = out_of(capsys, "lake", "status", lake=night)
    assert "model m-000001: recall@10 0.0625, ndcg@10 0.0312 (321 cases, on r-000001)" in told
    page = tmp_path / "page.html"
    out_of(capsys, "report", "--output", str(page), lake=night)
    text = page.read_text()
    assert "m-000001, trained on r-000001, evaluated on r-000001" in text
    assert "production serves it" in text
    assert "0.0625" in text
    assert "No generator was trained" not in text
    models = json.loads(out_of(capsys, "release", "show", "production", "--json", lake=night))["models"]
    assert [model["id"] for model in models] == ["m-000001"]


def test_production_is_as_old_as_the_publishing_of_its_release_and_a_hold_is_told(night: Lake) -> None:
    before = lake_state(night).production
    hold(night, WHO, "a fault in the catalogue")
    later = lake_state(night, datetime.now(UTC) + timedelta(days=3))
    assert later.production is not None
    assert before is not None
    assert later.production.published_at == before.published_at
    assert later.production.age == pytest.approx(3 * 86_400, abs=600)
    assert "(3 days ago)" in later.lines[1]
    assert later.held is not None
    assert "a fault in the catalogue" in later.lines[-1]


def test_a_lake_of_ingested_rows_alone_has_no_production(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = Lake(str(tmp_path / "lake"))
    assert lake_state(lake).lines == ["no run is recorded", "production: nothing is published"]


@given(st.floats(0, 1e9))
def test_an_age_is_never_told_larger_than_it_is_and_never_less_than_half(seconds: float) -> None:
    told = age(seconds)
    if told == "less than a minute":
        assert seconds < 60
        return
    count, unit = told.split()
    length = {"minute": 60, "hour": 3600, "day": 86_400}[unit.removesuffix("s")]
    whole = int(count.replace(",", "")) * length
    assert whole <= seconds < 2 * whole


def test_a_night_says_how_many_of_its_new_items_have_behaviour(
    tmp_path: Path, small: Path, recipe: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    uri = str(tmp_path / "lake")
    bootstrap(uri, recipe, [str(small / "items.jsonl")], [str(small / "log.csv")])
    write_items(small / "cold.jsonl", 40, 20)
    capsys.readouterr()
    nightly(uri, None, [str(small / "cold.jsonl")])
    assert "  0 of 20 new items have behaviour before the cutoff " in capsys.readouterr().out


def test_the_audit_log_names_run_and_person_of_each_move_of_production(
    night: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["release", "rollback", "--lake", night.uri]) == 0
    assert run_command(["release", "hold", "--reason", "wrong prices", "--lake", night.uri]) == 0
    found = json.loads(out_of(capsys, "lake", "audit", "--json", lake=night))
    assert [(move["value"]["release"], move["note"]) for move in found][-3:] == [
        ("r-000002", "nightly"),
        ("r-000001", "rollback"),
        ("r-000001", "hold: wrong prices"),
    ]
    who = f"{getuser()}@{socket.gethostname()}"
    assert found[-1]["who"] == f"release hold by {who}"
    assert found[-3]["who"].startswith("nightly-")
    assert f"production -> (r-000001, m-000001)  rollback  release rollback by {who}" in out_of(
        capsys, "lake", "audit", lake=night
    )


@pytest.mark.parametrize(
    ("verb", "option", "fault"),
    [
        ("nightly", ["--items", "/nowhere/gone"], "gone"),
        ("nightly", ["--recipe", "/nowhere/gone.toml"], "gone.toml"),
        ("nightly", ["--set", "gone.bar=1"], "gone"),
        ("nightly", ["--cutoff", "long gone"], "long gone"),
        ("backfill", ["--set", "gone.bar=1"], "gone"),
        ("train", ["--recipe", "/nowhere/gone.toml"], "gone.toml"),
    ],
)
def test_a_run_that_could_not_begin_is_the_last_run_and_its_resume_finds_the_fault(
    night: Lake, verb: str, option: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scheduler started it, and nobody saw the message."""
    assert run_command(["run", verb, *option, "--lake", night.uri]) == 1
    capsys.readouterr()
    assert run_command(["lake", "status", "--lake", night.uri]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"last run: {verb} failed" in told
    assert fault in told.split("production")[0]
    assert run_command(["lake", "check", "--lake", night.uri]) == 3
    assert "failed" in capsys.readouterr().out
    run = runs(night)[-1].run
    assert run_command(["run", "show", run, "--lake", night.uri]) == 0
    assert run_command(["run", "resume", run, "--lake", night.uri]) == 1
    assert fault in capsys.readouterr().err


def test_serve_refuses_wrong_times_before_it_starts(night: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    for option, text, told in (
        ("--cron", "99 * * * *", "--cron '99 * * * *' is not in cron syntax"),
        ("--gc", "daily", "--gc 'daily' is not in cron syntax"),
        ("--cron", "0 0 30 2 *", "--cron '0 0 30 2 *': no day of any year is such a day"),
        ("--every", "-5", "give the seconds between two looks"),
    ):
        assert run_command(["serve", "--lake", night.uri, f"{option}={text}"]) == 1
        assert told in " ".join(capsys.readouterr().err.split())


def test_a_night_whose_time_is_too_early_is_the_last_run(night: Lake, tmp_path: Path) -> None:
    write_items(tmp_path / "more.jsonl", 28, 1)
    more = ["--items", str(tmp_path / "more.jsonl"), "--lake", night.uri]
    assert run_command(["run", "nightly", *more, "--as-of", "2020-01-01"]) == 1
    assert "is earlier than the as-of time of" in " ".join(lake_state(night).lines)


def test_a_file_that_was_read_before_does_not_undo_later_ones_without_a_word(
    night: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    write_items(first, 0, 3)
    second.write_text(first.read_text().replace('"title": "', '"title": "changed '))
    for path in (first, second):
        nightly(night.uri, None, [str(path)])
    capsys.readouterr()
    nightly(night.uri, None, [str(second)])
    assert "other catalogue files were read since" not in capsys.readouterr().out
    nightly(night.uri, None, [str(first)])
    assert "note: other catalogue files were read since" in capsys.readouterr().out
    first.write_text(first.read_text() + "\n")
    nightly(night.uri, None, [str(first)])
    titles = sidmill.open(night.uri).release("production").items()["title"]
    assert not titles.str.starts_with("changed").any()


def test_a_run_whose_process_is_gone_is_told_with_the_command_that_goes_on_with_it(
    night: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    dies = (
        "import os; from storage.lake import Lake; from storage.runs.record import RunRecord; "
        f"RunRecord(Lake({night.uri!r}), 'train-20990101T000000-000000', 'train', '', {{}}).begin(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", dies], cwd=Path(__file__).parents[2]).returncode == 9
    resume = "its process is gone; `sidmill run resume train-20990101T000000-000000` goes on with it"
    assert lake_state(night).lines[0].endswith(f"(train-20990101T000000-000000): {resume}")
    assert run_command(["lake", "check", "--lake", night.uri]) == 3
    assert f"failed train: train-20990101T000000-000000 killed: {resume}" in " ".join(capsys.readouterr().out.split())
