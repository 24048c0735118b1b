"""Behaviour fitted on some items: the others are folded in, at once and at night; where all fit, nothing differs."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.dataset as ds
import pytest

from conftest import START, write_items, write_log
from flows.bootstrap import bootstrap
from flows.nightly import nightly
from flows.recipe import Recipe
from pipelines.collaborative import newest_pairs
from pipelines.collaborative.factors_file import factors_bytes, read_factors
from pipelines.collaborative.sppmi import fit_rows
from pipelines.event_log.visible_log import COLUMNS, LogSlice, histories
from pipelines.spec import FIT_ITEMS, CollaborativeSection, CollaborativeSpec
from storage.lake import Lake
from storage.releases.releases import read_release

KNOWN = [f"i{number:04d}" for number in range(40)]


def bootstrapped(folder: Path, recipe: dict[str, Any], **settings: object) -> Lake:
    recipe = {name: section for name, section in recipe.items() if name != "text"}
    recipe |= {"attributes": {"fields": ["genres"]}, "collaborative": {"dim": 8, "method": "sppmi", **settings}}
    write_items(folder / "items.jsonl", 0, 40)
    write_log(folder / "log.csv", KNOWN, users=20, events=600)
    lake = Lake(str(folder / "lake"))
    bootstrap(lake.uri, recipe, [str(folder / "items.jsonl")], [str(folder / "log.csv")], as_of="2025-01-01")
    return lake


def behaviour(lake: Lake) -> pl.DataFrame:
    return lake.frame("vectors", None, None, ds.field("modality") == "collaborative").sort("item_id")


def test_a_bootstrap_and_its_nights_fold_in_what_the_fit_left_out(
    tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest_pairs, "MAX_PAIRS", 100)
    lake = bootstrapped(tmp_path, recipe, fit_items=12)
    told = "".join(capsys.readouterr())
    assert "40 of 40 items in the log before" in told
    assert "fitted on the 12 most frequent, with 3" in told
    assert "(one in 8 of the newest)" in told
    release = read_release(lake, "production")
    details = release.encoders["collaborative"].details
    assert details["fit_items"] == 12
    spec = CollaborativeSpec(dim=8, fit_items=12)
    seen = histories(LogSlice.of(release).read(lake, COLUMNS), spec)
    fitted = fit_rows(seen, spec)
    assert fitted is not None
    factors, rows = fitted
    assert lake.blobs.get(details["factors"]) == factors_bytes(factors)
    assert read_factors(lake.blobs, details, factors.names).total == factors.total > factors.met.sum()
    before = behaviour(lake)
    assert before.select("item_id", pl.col("vector").cast(pl.Array(pl.Float32, 8))).equals(factors.fold(seen, rows))

    write_items(tmp_path / "new.jsonl", 40, 2)
    write_log(tmp_path / "new.csv", [*KNOWN[:12], "i0040"], users=4, events=80, start=START)
    nightly(lake.uri, None, [str(tmp_path / "new.jsonl")], [str(tmp_path / "new.csv")], as_of="2025-01-02")
    after = behaviour(lake)
    assert after.filter(pl.col("item_id") != "i0040").equals(before)
    assert after.height == 41


def test_a_limit_that_no_log_reaches_changes_nothing(tmp_path: Path, recipe: dict[str, Any]) -> None:
    one, other = bootstrapped(tmp_path / "one", recipe), bootstrapped(tmp_path / "other", recipe, fit_items=40)
    assert behaviour(one).drop("content_hash").equals(behaviour(other).drop("content_hash"))
    first, second = (read_release(lake, "production").encoders["collaborative"] for lake in (one, other))
    assert first.fingerprint == second.fingerprint
    assert first.details["factors"] == second.details["factors"]
    assert "fit_items" not in first.details


def test_a_recipe_with_the_default_limit_is_stored_as_before_there_was_one() -> None:
    assert "fit_items" not in CollaborativeSection().model_dump()
    plain, named = Recipe(collaborative=CollaborativeSection()), CollaborativeSection(fit_items=FIT_ITEMS)
    assert plain.hash == Recipe(collaborative=named).hash
    assert CollaborativeSection(fit_items=50).model_dump()["fit_items"] == 50
