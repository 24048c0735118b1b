"""`sidmill run backfill --dry-run` says what a backfill would encode and refuse, and changes no file of the lake."""

from typing import Any

import pytest
from test_preflight import MAKES, READ, TIME, content

from conftest import SMALL_RECIPE, write_items, write_log
from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from flows.preflight.backfill import PlannedBackfill, preflight_backfill
from flows.preflight.report import Report
from storage.lake import Lake
from storage.releases.releases import read_release


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake of 40 items and 600 events, with a release."""
    folder = tmp_path_factory.mktemp("shop")
    rows = write_items(folder / "items.jsonl", 0, 40)
    write_log(folder / "log.csv", [str(row["item_id"]) for row in rows], users=20, events=600)
    bootstrap(str(folder / "lake"), SMALL_RECIPE, [str(folder / "items.jsonl")], [str(folder / "log.csv")])
    return Lake(str(folder / "lake"))


def look(lake: Lake, *overrides: str, **others: Any) -> Report:
    recipe = read_release(lake, "production").recipe
    return preflight_backfill(PlannedBackfill(Lake(lake.uri), recipe, overrides=overrides, **others))


def test_what_is_stored_is_not_encoded_again_and_no_file_changes(
    made: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(made)
    codes = "codebook.levels=[{codes=4},{codes=4},{codes=4},{codes=4}]"
    assert run_command(["run", "backfill", "--dry-run", "--set", codes, "--lake", made.uri]) == 0
    told = capsys.readouterr().out
    assert "Nothing was found that would stop the backfill." in told
    found = look(made, codes)
    assert [line.split()[1] for line in found.lines[READ]] == ["40", "540"]
    text, codebook = found.lines[MAKES]
    assert text.endswith("vectors of about 0 items; 40 of this encoder are stored")
    assert codebook.endswith("rq-kmeans 4 x 4 x 4 x 4: 256 SIDs for 40 items, 80 planned")
    assert [line.split()[:2] for line in found.lines[TIME]] == [["the", "rest"]]
    other = look(made, 'text.fields=["title"]')
    assert "vectors of about 40 items; 0 of this encoder are stored" in other.lines[MAKES][0]
    assert any(line.startswith("embed text") for line in other.lines[TIME])
    assert content(made) == before


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        ("2 x 2 codes give 4 SIDs, but 80 are planned", ("codebook.levels=[{codes=2},{codes=2}]",)),
        ("the text encoder differs from the one that", ("refit.budget=0.1", 'text.fields=["title"]')),
        ("codebook.levels encode image", ('codebook.levels=[{codes=16},{codes=16,source="image"}]',)),
    ],
)
def test_what_would_stop_the_backfill_is_told_before(made: Lake, words: str, overrides: tuple[str, ...]) -> None:
    (told,) = look(made, *overrides).errors
    assert words in told


def test_a_refit_says_how_much_may_change_and_refuses_a_cutoff_that_its_vectors_have_seen(made: Lake) -> None:
    found = look(made, "refit.budget=0.1")
    assert found.errors == []
    assert "at most 10.0% of 40 SIDs change" in found.lines[MAKES][-1]
    without = {name: each for name, each in read_release(made, "production").recipe.items() if name != "text"}
    (told,) = preflight_backfill(PlannedBackfill(made, without, overrides=("refit.budget=0.1",))).errors
    assert "the text encoder differs from the one that" in told
    early = look(made, "refit.budget=0.1", cutoff="2020-01-01")
    assert "too early for a refit" in early.errors[0]
    assert early.warnings == ["the recipe has [collaborative], but no event is visible: no behaviour vectors are made"]
