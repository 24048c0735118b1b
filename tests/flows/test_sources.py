"""A codebook whose levels encode different vectors, from the first run over nights to a backfill."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from test_runs import Recipe, sids, start

from conftest import START, write_items, write_log
from flows.backfill import backfill
from flows.nightly import nightly
from storage.errors import QuarantineBudgetExceeded
from storage.quarantine import open_rows
from storage.releases.releases import read_release


def test_items_without_the_vectors_that_a_level_encodes_wait_until_they_have_them(
    tmp_path: Path, small: Path, recipe: Recipe
) -> None:
    sources = ["fused", "text", "collaborative"]
    recipe["codebook"] = {"levels": [{"codes": 8, "source": source} for source in sources]}
    recipe |= {"collaborative": {"dim": 8, "min_events": 1}, "split": {"holdout": 0.0}}
    lake = start(str(tmp_path / "lake"), small, recipe)
    first = sids(lake, "production")
    assert len(first) == 40

    # Nobody has taken the night's items yet: none of them has what the last level encodes.
    write_items(small / "night.jsonl", 40, 4)
    with pytest.raises(QuarantineBudgetExceeded, match="missing_source 4: the item has no collaborative vector"):
        nightly(lake.uri, {**recipe, "budget": {"quarantine_rows": 0}}, [str(small / "night.jsonl")])
    waiting = open_rows(lake)
    assert sorted(waiting["subject"]) == ["i0040", "i0041", "i0042", "i0043"]
    assert set(waiting["reason"]) == {"missing_source"}
    nightly(lake.uri)
    assert sids(lake, "production") == first

    # Two are taken beside others: they get their SIDs when they are tried again, and the others go on waiting.
    write_log(small / "night.csv", ["i0040", "i0041", *first], 20, 400, START + timedelta(days=40))
    nightly(lake.uri, None, None, [str(small / "night.csv")], retry_quarantined=True)
    second = sids(lake, "production")
    assert second.keys() - first.keys() == {"i0040", "i0041"}
    assert {item: second[item] for item in first} == first
    assert sorted(open_rows(lake)["subject"]) == ["i0042", "i0043"]

    wider = json.loads(json.dumps(recipe["codebook"]).replace('"codes": 8', '"codes": 12'))
    made = read_release(lake, backfill(lake.uri, {**recipe, "codebook": wider}, as_of="2100-01-01")["release"])
    assert made.codebook.sizes == (12, 12, 12)
    assert sids(lake, made.id).keys() == second.keys()
