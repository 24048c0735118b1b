"""Held-out events decide nothing: if events at or after the cutoff change, every product has the same bytes."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.dataset as ds
import pytest
import ray
from in_process import trained_here
from made_releases import publish

from conftest import START, write_items, write_log
from flows.backfill import backfill
from flows.bootstrap import bootstrap
from flows.nightly import nightly
from flows.steps import fit as fit_steps
from flows.steps import training as training_steps
from flows.steps.held_out import evaluation_cases
from flows.train import train
from pipelines.collaborative.sequence_model import fit_collaborative
from pipelines.event_log.visible_log import COLUMNS, LogSlice, histories
from pipelines.fusion.fit import train_fusion
from pipelines.fusion.fuse import placed
from pipelines.spec import CollaborativeSpec
from sidmill.release import open_trie
from storage.commit import Provenance
from storage.lake import Lake
from storage.releases.models import evaluations, models
from storage.releases.publishing import rollback
from storage.releases.releases import published, read_release, releases
from training.spec import GeneratorSpec

CUTOFF = START + timedelta(days=20)
WHO = Provenance("test", "")
KNOWN = [f"i{item:04d}" for item in range(40)]
Change = Callable[[list[str]], list[str]]


@pytest.fixture
def fast(recipe: dict[str, object]) -> dict[str, object]:
    """A recipe without texts, with behaviour of both kinds, that trains in this process."""
    del recipe["text"]
    recipe["attributes"] = {"fields": ["genres"]}
    recipe["collaborative"] = {"dim": 8, "method": "both"}
    recipe["sasrec"] = {"dim": 8, "heads": 2, "ff": 8, "epochs": 1, "further_epochs": 1}
    recipe["train"] = {"workers": 1, "epochs": 1, "align_epochs": 1}
    return recipe


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings run in this process: they are asked what they learn from."""
    monkeypatch.setattr(training_steps, "launch", trained_here)
    monkeypatch.setattr(training_steps, "connect", lambda compute: None)
    monkeypatch.setattr(ray, "cluster_resources", dict)


def held_out_changed(lines: list[str]) -> list[str]:
    """Every event at or after the cutoff is of another item, user and type, and a few are not there."""
    head, *rows = (line.split(",") for line in lines)
    later = [row for row in rows if datetime.fromisoformat(row[2]) >= CUTOFF]
    assert {row[0] for row in later} == {row[0] for row in rows}, "every user has an event that is held out"
    others = [
        [f"u{(int(user[1:]) + 1) % 20}", f"i{(int(item[1:]) + 7) % 40:04d}", time, "buy", "3"]
        for user, item, time, *_ in later[:-5]
    ]
    return [",".join(row) for row in [head, *(row for row in rows if row not in later), *others]]


def deliver(folder: Path, change: Change) -> None:
    """A catalogue and two nights; their logs lie on both sides of the cutoff."""
    write_items(folder / "items.jsonl", 0, 40)
    write_items(folder / "first.jsonl", 40, 3)
    write_items(folder / "second.jsonl", 43, 2)
    logs = (("log", KNOWN, 180), ("first", ["i0040", *KNOWN], 120.25), ("second", ["i0043", *KNOWN], 120.5))
    for name, items, before in logs:
        path = folder / f"{name}.csv"
        write_log(path, items, 20, 240, CUTOFF - timedelta(hours=before))
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def given(folder: Path, name: str) -> tuple[list[str], list[str]]:
    return [str(folder / f"{name}.jsonl")], [str(folder / f"{name}.csv")]


def run_everything(folder: Path, recipe: dict[str, Any], change: Change) -> Lake:
    """Bootstrap, night, refit that is published, rollback, night of what was rolled back to, training."""
    deliver(folder, change)
    lake = Lake(str(folder / "lake"))
    bootstrap(lake.uri, recipe, *given(folder, "items")[:1], [str(folder / "log.csv")], "2025-01-01", str(CUTOFF))
    nightly(lake.uri, None, *given(folder, "first"), as_of="2025-01-02")
    refitting = {**recipe, "refit": {"budget": 0.3, "steps": 2}}
    refitted = backfill(lake.uri, refitting, as_of="2025-01-02")["release"]
    publish(lake, refitted, WHO)
    rollback(lake, WHO)
    night = nightly(lake.uri, None, *given(folder, "second"), as_of="2025-01-03")["release"]
    train(lake.uri, recipe, release=night)
    return lake


def products(lake: Lake) -> dict[str, Any]:
    """All that was made of the log, by kind."""
    made = releases(lake)
    vectors = lake.frame("vectors").select("item_id", "modality", "vector")
    sequences = lake.frame("sequences").drop("event_id")
    return {
        "vectors": vectors.sort(pl.all()).to_dicts(),
        "fusions": [each.fusion_blob for each in made],
        "codebooks": [(each.codebook.id, each.codebook.blob) for each in made],
        "tries": [each.trie.sha256 for each in made],
        "sids": sorted(lake.frame("sids").select("item_id", "codes").rows()),
        "sequences": sequences.sort("user_id", "event_time", "release").rows(),
        "weights": [model.weights for model in models(lake)],
    }


@pytest.mark.usefixtures("without_ray")
def test_what_is_held_out_changes_nothing_that_is_made(tmp_path: Path, fast: dict[str, object]) -> None:
    lakes = [
        run_everything(tmp_path / name, fast, change)
        for name, change in (("one", list[str]), ("other", held_out_changed))
    ]
    one, other = (products(lake) for lake in lakes)
    for kind in one:
        assert one[kind] == other[kind], kind
    made = releases(lakes[0])
    assert [each.kind for each in made] == ["bootstrap", "nightly", "backfill", "nightly"]
    assert len({codebook for codebook, _ in one["codebooks"]}) == 2, "the refit made another codebook"
    assert len(one["weights"]) == 1
    behaviour = {row["item_id"] for row in one["vectors"] if row["modality"] == "collaborative"}
    assert behaviour == {*KNOWN, "i0040", "i0043"}, "both nights folded an item in"

    # The last night is asked about what was held out: the answers differ, what popularity and neighbours know does not.
    cases = []
    for lake in lakes:
        manifest = read_release(lake, made[-1].id)
        assert lake.frame("sequences")["event_time"].max() < manifest.cutoff == CUTOFF  # type: ignore[operator]
        trie, version = open_trie(lake, manifest), lake.version("interactions")
        found = evaluation_cases(lake, LogSlice.of(manifest), trie, version, ("impression",), GeneratorSpec())
        assert found is not None
        cases.append(found)
    first, second = cases
    assert [rows.tolist() for rows in first.trained_on] == [rows.tolist() for rows in second.trained_on]
    assert first.cases.target_rows.tolist() != second.cases.target_rows.tolist()
    assert [len(evaluations(lake)) for lake in lakes] == [1, 1]


def test_a_run_holds_out_nothing_that_the_vectors_it_keeps_have_seen(tmp_path: Path, fast: dict[str, object]) -> None:
    """A refit keeps the vectors of production; a night after a rollback those of every segment that was published."""
    deliver(tmp_path, list[str])
    day = timedelta(days=1)
    lake = Lake(str(tmp_path / "lake"))
    early, late = CUTOFF - 2 * day, CUTOFF + day
    bootstrap(lake.uri, fast, [str(tmp_path / "items.jsonl")], [str(tmp_path / "log.csv")], "2025-01-01", str(early))
    before = len(releases(lake))
    with pytest.raises(ValueError, match="too early for a refit: it keeps the vectors of r-000001"):
        backfill(lake.uri, {**fast, "refit": {"budget": 0.3}}, cutoff=str(early - day))
    assert len(releases(lake)) == before
    assert backfill(lake.uri, fast, cutoff=str(early - day))["made"], "fitted anew the vectors see no more"

    folded = nightly(lake.uri, None, *given(tmp_path, "first"), as_of="2025-01-02", cutoff=str(late))["release"]
    assert read_release(lake, folded).fit_cutoff == late
    assert published(lake).release == folded  # type: ignore[union-attr]
    rollback(lake, WHO)
    assert read_release(lake, published(lake).release).fit_cutoff == early  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=re.escape(f"have seen events up to {late.isoformat()}")):
        nightly(lake.uri, None, *given(tmp_path, "second"), as_of="2025-01-03", cutoff=str(early + day))
    again = read_release(lake, nightly(lake.uri, None, as_of="2025-01-03")["release"])
    assert again.fit_cutoff == again.cutoff == late


def test_a_bootstrap_fits_its_fusion_on_behaviour_as_it_was_before_the_pairs(
    tmp_path: Path, fast: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast["collaborative"] = {"dim": 8, "method": "sppmi"}
    given_to_fusion = []

    def noted(*arguments: Any) -> Any:
        given_to_fusion.append(arguments)
        return train_fusion(*arguments)

    monkeypatch.setattr(fit_steps, "train_fusion", noted)
    deliver(tmp_path, list[str])
    lake = Lake(str(tmp_path / "lake"))
    bootstrap(lake.uri, fast, [str(tmp_path / "items.jsonl")], [str(tmp_path / "log.csv")], "2025-01-01", str(CUTOFF))
    ((start, before, pairs, _),) = given_to_fusion
    spec = start.spec
    seen = histories(LogSlice.of(read_release(lake, "production")).read(lake, COLUMNS), CollaborativeSpec(dim=8))
    since = seen.newest(spec.recent)
    assert sorted(map(tuple, pairs)) == sorted(map(tuple, seen.pairs(spec.pair_window, since)))
    made = fit_collaborative(seen, CollaborativeSpec(dim=8), since)
    assert made is not None
    expected = placed(pl.DataFrame({"item_id": KNOWN}), made.before)
    assert before.keys() == start.means.keys() > {"collaborative"}
    np.testing.assert_array_equal(before["collaborative"].take(slice(None)).vectors, expected.vectors)
    np.testing.assert_array_equal(before["collaborative"].present, expected.present)
    now = lake.frame("vectors", None, ["item_id", "vector"], ds.field("modality") == "collaborative")
    assert (placed(pl.DataFrame({"item_id": KNOWN}), now).vectors != expected.vectors).any()
