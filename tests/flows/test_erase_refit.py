"""`lake erase --refit` makes a candidate of a new fit, if production's had seen what is gone."""

from pathlib import Path

import pytest
from test_erase import ITEM, RECIPE, USER, items, left, log

from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from sidmill.release import open_trie
from storage.files import rewritten_log
from storage.lake import Lake
from storage.releases.releases import published, read_release, releases


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake with one release, whose fits have seen a user and an item."""
    monkeypatch.setattr(rewritten_log, "LOADING_S", 0)
    made = Lake(str(tmp_path / "lake"))
    bootstrap(made.uri, RECIPE, items(tmp_path, 0, 12), log(tmp_path, 0))
    return made


def erase(lake: Lake, *named: str) -> None:
    assert run_command(["lake", "erase", *named, "--refit", "--yes", "--wait", "0s", "--lake", lake.uri]) == 0


def test_what_was_fitted_with_what_is_gone_is_fitted_again_as_a_candidate(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_release(lake, "production")
    erase(lake, "--user", USER, "--item", ITEM)
    assert "fitted with them" in capsys.readouterr().out
    production, candidate = releases(lake)
    assert published(lake).release == production.id == before.id  # type: ignore[union-attr]
    assert candidate.kind == "backfill"
    assert candidate.codebook.id != before.codebook.id, "it is another fit"
    assert candidate.fusion.fingerprint != before.fusion.fingerprint
    assert candidate.versions["interactions"] > before.versions["interactions"]
    assert sorted(open_trie(lake, candidate).item_ids.to_pylist()) == [f"i{number:03d}" for number in range(12)]
    assert left(lake) == [], "the fit brought nothing of it back"
    erase(lake, "--user", USER, "--item", ITEM)
    assert "production had not seen it: nothing to refit" in capsys.readouterr().out
    assert len(releases(lake)) == 2


def test_nothing_is_fitted_where_production_had_not_seen_what_is_gone(
    lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    erase(lake, "--user", "nobody")
    assert "production had not seen it: nothing to refit" in capsys.readouterr().out
    assert len(releases(lake)) == 1
