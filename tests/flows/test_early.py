"""Errors that can be known before the work begins end the run then, with one sentence, and leave nothing behind."""

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.backfill import backfill
from flows.bootstrap import bootstrap
from flows.candidates import NothingToDo
from flows.cli.main import run_command
from flows.ingest import ingest
from flows.nightly import nightly
from storage.errors import QuarantineBudgetExceeded
from storage.lake import Lake
from storage.releases.releases import releases
from tokenizer.errors import CapacityExhausted


def test_too_few_codes_are_told_after_ingest_and_before_any_item_is_embedded(
    tmp_path: Path, small: Path, recipe: dict[str, object]
) -> None:
    recipe["codebook"] = {"levels": [{"codes": 8}, {"codes": 8}]}
    lake = Lake(str(tmp_path / "lake"))
    with pytest.raises(CapacityExhausted, match=r"8 x 8 codes give 64 SIDs, but 80 are planned.*add a level or codes"):
        bootstrap(lake.uri, recipe, [str(small / "items.jsonl")])
    assert lake.rows("items") == 40
    assert not lake.exists("vectors")


def test_a_catalogue_whose_items_are_all_deleted_says_so(tmp_path: Path, recipe: dict[str, object]) -> None:
    (tmp_path / "items.csv").write_text("item_id,title,deleted\n1,mug,yes\n2,bowl,yes\n")
    with pytest.raises(NothingToDo, match=r"all 2 items of the lake .* are deleted: .*items\.deleted"):
        bootstrap(str(tmp_path / "lake"), recipe, [str(tmp_path / "items.csv")])


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"image": {}}, r"\[image\], but no item has a picture that was read; `items\.image` names their column"),
        ({"coordinates": {}}, r"\[coordinates\], but no item has a latitude and a longitude"),
    ],
)
def test_content_that_a_recipe_asks_for_and_no_item_has_is_told(
    tmp_path: Path, small: Path, recipe: dict[str, object], capsys: pytest.CaptureFixture[str],
    section: dict[str, object], told: str,
) -> None:  # fmt: skip
    bootstrap(str(tmp_path / "lake"), {**recipe, **section}, [str(small / "items.jsonl")])
    assert re.search(told, capsys.readouterr().out.replace("\n", " "))


def test_a_bootstrap_without_a_catalogue_makes_no_lake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = tmp_path / "lake"
    assert run_command(["run", "bootstrap", "--lake", str(lake)]) == 1
    assert "--items FILE" in capsys.readouterr().err
    assert run_command(["run", "bootstrap", "--lake", str(lake), "--items", str(tmp_path / "none.jsonl")]) == 1
    assert "no file or folder" in capsys.readouterr().err
    assert not lake.exists()


@pytest.mark.parametrize(("days", "warned"), [(0, False), (400, True)])
def test_an_as_of_time_far_ahead_of_the_clock_is_told(
    tmp_path: Path, small: Path, capsys: pytest.CaptureFixture[str], days: int, warned: bool
) -> None:
    as_of = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    ingest(str(tmp_path / "lake"), "default", [str(small / "items.jsonl")], as_of=as_of)
    told = capsys.readouterr().out.replace("\n", " ")
    assert ("is later than the clock of this machine" in told) is warned


def test_a_cluster_that_does_not_answer_is_told_before_a_lake_is_made(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    lake, began = tmp_path / "lake", time.monotonic()
    assert run_command(["run", "bootstrap", "--lake", str(lake), "--items", str(small / "items.jsonl")]) == 1
    told = capsys.readouterr().err
    assert "RAY_ADDRESS=127.0.0.1:1 does not answer" in told
    assert [line for line in told.splitlines() if line.startswith("sidmill: ")] == told.splitlines()[-1:]
    assert time.monotonic() - began < 30
    assert not lake.exists()


@pytest.mark.parametrize("verb", ["bootstrap", "nightly"])
def test_an_address_for_ray_client_is_refused_before_a_source_is_read(
    verb: str, old_lake: Lake, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")
    versions = old_lake.version("sources"), old_lake.version("quarantine")
    assert run_command(["run", verb, "--lake", old_lake.uri, "--items", str(small / "items.jsonl")]) == 1
    assert "set RAY_ADDRESS=127.0.0.1:6379" in capsys.readouterr().err
    assert (old_lake.version("sources"), old_lake.version("quarantine")) == versions


def test_a_backfill_of_an_outgrown_codebook_names_the_time_that_fits_it_on_what_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe: dict[str, object] = {
        "attributes": {"fields": ["brand"], "dim": 8},
        "fusion": {"method": "concat", "dim": 8},
        "codebook": {"levels": [{"codes": 8}, {"codes": 8}]},
    }
    lake, one, more = str(tmp_path / "lake"), tmp_path / "one.csv", tmp_path / "more.csv"
    one.write_text("item_id,title,brand\n0,mug,x\n")
    more.write_text("item_id,title,brand\n" + "".join(f"{item},mug,x\n" for item in range(1, 31)))
    bootstrap(lake, recipe, [str(one)])
    with pytest.raises(QuarantineBudgetExceeded, match="refit_due"):
        nightly(lake, None, [str(more)])
    assert "--as-of" not in capsys.readouterr().out
    with pytest.raises(QuarantineBudgetExceeded, match="refit_due"):
        backfill(lake)
    assert "or with an --as-of after they arrived, to fit it on them too" in capsys.readouterr().out.replace("\n", " ")
    backfill(lake, as_of=datetime.now(UTC).isoformat())
    assert releases(Lake(lake))[-1].items == 31
