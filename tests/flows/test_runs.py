"""Runs end to end on a small catalogue: what is published stays, what is new is added, what is wrong stops."""

import json
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from log_rows import START as FIRST_DAY
from log_rows import deliver, event
from made_releases import publish

from conftest import START, write_items, write_log
from flows.backfill import backfill
from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from flows.inspect.diff import ItemChanges, diff_releases
from flows.inspect.explain import explain_item
from flows.inspect.verify import verify
from flows.nightly import nightly
from flows.recipe import Recipe as Settings
from flows.report.samples import sample_views
from flows.runtime.run import open_run
from flows.snapshot import Snapshot, added_events, take_snapshot
from flows.steps.given import Given
from flows.steps.publish import publish_model
from flows.steps.vectors import VectorInputs, gather_inputs
from flows.train import model_key, resumable_production_model, train
from pipelines.fusion.frozen import Fusion
from sidmill.release import open_trie
from storage.commit import Provenance
from storage.errors import StaleCandidate
from storage.lake import Lake
from storage.quarantine import by_reason
from storage.releases.models import ModelCard, TrainedModel, record_model
from storage.releases.pointers import Published
from storage.releases.releases import published, read_release
from storage.runs.record import runs
from tokenizer.arrays import scratch
from training.auto_settings import Scale, generator_spec
from training.errors import VocabularyMismatch

Recipe = dict[str, object]


def versions(lake: Lake) -> dict[str, int]:
    from storage.schemas import TABLES

    return {table: lake.version(table) for table in TABLES}


def sids(lake: Lake, release: str) -> dict[str, tuple[int, ...]]:
    trie = open_trie(lake, read_release(lake, release))
    return {item: tuple(codes) for item, codes in zip(trie.item_ids.to_pylist(), trie.codes().tolist(), strict=True)}


def start(uri: str, small: Path, recipe: Recipe, **options: object) -> Lake:
    bootstrap(uri, recipe, [str(small / "items.jsonl")], [str(small / "log.csv")], **options)  # type: ignore[arg-type]
    return Lake(uri)


def test_from_bootstrap_over_nights_to_a_backfill(
    tmp_path: Path, small: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "IN_MEMORY", 0)  # vectors lie in files, as those of a large catalogue do
    lake = start(str(tmp_path / "lake"), small, recipe)
    first = sids(lake, "r-000001")
    assert len(first) == len(set(first.values())) == 40
    assert [stage.name for stage in runs(lake)[-1].stages].count("fuse") == 1

    # A second bootstrap and an empty night change no table.
    before = versions(lake)
    assert not bootstrap(lake.uri, recipe, [str(small / "items.jsonl")], [str(small / "log.csv")])["made"]
    assert not nightly(lake.uri, None, [str(small / "items.jsonl")], [str(small / "log.csv")])["made"]
    assert versions(lake) == before

    # A night: new items, one changed, one deleted, events of a new item that came before it.
    rows = write_items(small / "night.jsonl", 40, 8)
    rows += [{"item_id": "i0000", "title": "something else"}, {"item_id": "i0001", "title": "gone", "gone": True}]
    (small / "night.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_log(small / "night.csv", ["i0040", "i0041", "i0042", "i0043"], 4, 20, START)
    deleting = {**recipe, "items": {"deleted": "gone"}}
    assert nightly(lake.uri, deleting, [str(small / "night.jsonl")], [str(small / "night.csv")])["made"]
    second = sids(lake, "production")
    assert {item: first[item] for item in second if item in first} == {
        item: sid for item, sid in first.items() if item != "i0001"
    }
    assert len(second) == 47
    assert first["i0001"] not in second.values()
    assert read_release(lake, "production").counts["drifted"] == 1
    assert lake.frame("drift")["item_id"].to_list() == ["i0000"]

    # A backfill is a candidate: production stays, then what is published is whole.
    other = {**deleting, "codebook": {"levels": [{"codes": 16}, {"codes": 16}]}}
    made = backfill(lake.uri, other)
    assert published(lake).release == "r-000002"  # type: ignore[union-attr]
    diff = diff_releases(lake, read_release(lake, "r-000002"), read_release(lake, made["release"]))
    assert diff.items == ItemChanges(added=0, removed=0, kept=47)
    assert not diff.codebook.same_vocabulary
    explained = explain_item(lake, read_release(lake, "r-000002"), "i0004")
    assert explained.sid == list(second["i0004"])
    assert explained.path[-1].items == 1
    assert [finding for finding in verify(lake) if finding.fault] == []
    assert [run.state for run in runs(lake)] == ["finished"] * 3


def test_a_night_folds_new_items_into_behaviour_and_moves_no_vector(
    tmp_path: Path, small: Path, recipe: Recipe
) -> None:
    """New items taken beside known ones get a collaborative vector, later nights keep it, cold ones get none."""
    recipe = {**recipe, "split": {"holdout": 0.0}}
    lake = start(str(tmp_path / "lake"), small, recipe)
    collaborative = pl.col("modality") == "collaborative"
    before = lake.frame("vectors").filter(collaborative)
    assert before.height == 40
    write_items(small / "night.jsonl", 40, 3)
    known = [f"i{item:04d}" for item in range(40)]
    write_log(small / "night.csv", ["i0040", *known], 20, 400, START + timedelta(days=40))
    made = nightly(lake.uri, None, [str(small / "night.jsonl")], [str(small / "night.csv")])
    after = lake.frame("vectors").filter(collaborative)
    assert after.filter(pl.col("content_hash").is_in(before["content_hash"].unique().to_list())).equals(before)
    assert sorted(set(after["item_id"]) - set(before["item_id"])) == ["i0040"]
    vectors = dict(zip(after["item_id"], np.array(after["vector"].to_list()), strict=True))
    similar = {item: float(vector @ vectors["i0040"] / np.linalg.norm(vector)) for item, vector in vectors.items()}
    # Users 0, 4, 8 .. take every fourth item, and i0040.
    assert np.mean([similar[item] for item in known[::4]]) > np.mean([similar[item] for item in known[1::4]]) + 0.3

    manifest = read_release(lake, made["release"])
    assert len(manifest.encoders["collaborative"].details["slices"]) == 2
    with open_run("nightly", lake.uri, recipe, {}) as run:
        items = take_snapshot(run, None, None).catalogue(lake, among=["i0040", "i0041", "i0000"])
        gathered = gather_inputs(run, VectorInputs(items, {}, Given()), manifest.encoders)
        run.done()
    assert gathered.modalities["collaborative"].present.tolist() == [True, True, False]  # i0000, i0040, i0041

    # What was folded in has seen events up to the night's cutoff: nothing before it counts as held out any more.
    assert manifest.fit_cutoff == manifest.cutoff > read_release(lake, "r-000001").fit_cutoff
    with pytest.raises(ValueError, match="have seen events"):
        nightly(lake.uri, None, cutoff=str(START + timedelta(days=1)))

    # A cold item that changes in a later night, and is taken by now, keeps its SID and gets no vector.
    rows = [{"item_id": "i0041", "title": "another title", "genres": "x"}]
    (small / "later.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_log(small / "later.csv", ["i0041", *known], 20, 200, START + timedelta(days=60))
    nightly(lake.uri, None, [str(small / "later.jsonl")], [str(small / "later.csv")])
    assert lake.frame("vectors").filter(collaborative).equals(after)


def test_attributes_and_places_are_modalities_like_the_others(
    tmp_path: Path, small: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    """They reach the fused vectors; a bad place is quarantined, none is no fault; a night must not lose them."""
    rows = [json.loads(line) for line in (small / "items.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {"brand": f"b{number % 5}", "latitude": 40 + number, "longitude": 10} if number else {"latitude": 999}
    (small / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {**recipe, "attributes": {"fields": ["brand", "colour"]}, "coordinates": {}}
    lake = start(str(tmp_path / "lake"), small, recipe)
    assert (
        "note: attributes.fields names colour, which no item has; the attributes of the items are brand, genres,"
        in capsys.readouterr().out
    )
    held = lake.frame("vectors")["modality"].value_counts()
    assert dict(held.iter_rows()) == {"text": 40, "collaborative": 40, "attributes": 39, "coordinates": 39, "fused": 40}
    assert by_reason(lake) == {"encoder_failed": 1}
    fusion = Fusion.from_bytes(lake.blobs.get(read_release(lake, "production").fusion_blob))
    assert fusion.modalities == ["attributes", "collaborative", "coordinates", "text"]
    seen = sample_views(lake, read_release(lake, "production"), open_trie(lake, read_release(lake, "production")))
    assert seen.sampled == len(seen.points) == 40
    first = [strip[0] for strip in seen.strips]
    assert len({each.item for each in first}) == len(first) == 6
    assert all(each.cosine > 0.999 and each.shared == 3 for each in first)
    assert all(a.cosine >= b.cosine for strip in seen.strips for a, b in pairwise(strip))
    write_items(small / "night.jsonl", 40, 2)
    with pytest.raises(ValueError, match="the coordinates encoder differs"):
        nightly(lake.uri, {**recipe, "coordinates": {"scales": 3}}, [str(small / "night.jsonl")])
    assert nightly(lake.uri, recipe, [str(small / "night.jsonl")])["made"]


def test_items_that_arrive_while_a_backfill_runs_are_caught_up_before_it_can_be_published(
    tmp_path: Path, small: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flows.candidates
    from flows.steps.fit import fit

    lake = start(str(tmp_path / "lake"), small, recipe)
    write_items(small / "during.jsonl", 40, 4)

    def fit_while_a_night_runs(*arguments: object) -> object:
        monkeypatch.setattr(flows.candidates, "fit", fit)
        nightly(lake.uri, None, [str(small / "during.jsonl")])
        return fit(*arguments)

    monkeypatch.setattr(flows.candidates, "fit", fit_while_a_night_runs)
    made = backfill(lake.uri, {**recipe, "codebook": {"levels": [{"codes": 16}, {"codes": 16}]}})
    assert published(lake).release != "r-000001"  # type: ignore[union-attr]
    assert read_release(lake, made["fitted"]).items == 40
    assert read_release(lake, made["release"]).items == 44
    with pytest.raises(StaleCandidate, match="lacks 4 item"):
        publish(lake, made["fitted"], Provenance("test", ""))
    publish(lake, made["release"], Provenance("test", ""))


def test_events_that_become_visible_late_are_added_though_the_table_grew_meanwhile(
    tmp_path: Path, small: Path, recipe: Recipe
) -> None:
    lake = start(str(tmp_path / "lake"), small, recipe)
    deliver(lake, [event(1, 1, 5, day=8, name=1)], "early")
    parent = read_release(lake, "r-000001")
    as_of = FIRST_DAY + timedelta(days=5)
    parent = parent.model_copy(
        update={"as_of": as_of, "versions": {**parent.versions, "interactions": lake.version("interactions")}}
    )
    for grew in (False, True):
        if grew:
            deliver(lake, [event(2, 2, 6, day=7, name=2), event(3, 3, 7, day=20, name=3)], "more")
        seen = Snapshot(lake.ref("items"), lake.ref("interactions"), FIRST_DAY + timedelta(days=10), parent.cutoff)
        assert sorted(added_events(lake, parent, seen, ["event_id"])["event_id"]) == ["e1", "e2"][: 1 + grew]


def test_a_model_trained_for_a_backfill_is_published_with_it_and_the_training_says_how(
    tmp_path: Path, small: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = start(str(tmp_path / "lake"), small, recipe)
    other = {**recipe, "codebook": {"levels": [{"codes": 16}, {"codes": 16}]}}
    made = read_release(lake, backfill(lake.uri, other)["release"])
    shape = generator_spec(Settings.model_validate(recipe).generator, Scale(40, 3, 10, 100))
    card = ModelCard.model_validate({"identity": {"spec": shape.model_dump(mode="json")}})
    weights = lake.blobs.put(b"weights")
    model = record_model(
        lake, TrainedModel("key", made.id, made.codebook.vocabulary, weights, card), Provenance("test", "")
    )
    capsys.readouterr()
    with open_run("train", lake.uri, made.recipe, {}) as run:
        publish_model(run, made, model)
    told = capsys.readouterr().out
    assert "production is (r-000001, no model)" in told
    assert f"`sidmill release publish {made.id} --model {model}`" in told
    assert run_command(["release", "publish", made.id, "--lake", lake.uri]) == 0
    assert f"production -> ({made.id}, {model})" in capsys.readouterr().out
    # A training publishes its model once: not again where somebody has put another in its place.
    newer = record_model(
        lake, TrainedModel("newer", made.id, made.codebook.vocabulary, weights, card), Provenance("test", "")
    )
    for wanted in (newer, model):
        with open_run("train", lake.uri, made.recipe, {}) as run:
            publish_model(run, made, newer)
        assert published(lake) == Published(made.id, wanted)
        publish(lake, made.id, Provenance("test", ""), model)
    assert f"`sidmill release publish {made.id} --model {newer}`" in capsys.readouterr().out
    kept = len(runs(lake))
    with pytest.raises(VocabularyMismatch, match=f"{model}: the model was trained for vocabulary"):
        train(lake.uri, release="r-000001", since=model)
    assert len(runs(lake)) == kept, "what is asked for wrongly is refused before a run begins"
    # A training of a recipe that says so goes on from it, where it has those codes and that shape.
    going_on = {**other, "train": {**recipe["train"], "since_production": True}}  # type: ignore[dict-item]
    for settings, release, going in (
        (other, made.id, False),
        (going_on, made.id, True),
        (going_on, "r-000001", False),
        ({**going_on, "generator": {**recipe["generator"], "dim": 64}}, made.id, False),  # type: ignore[dict-item]
    ):
        with open_run("train", lake.uri, settings, {}) as run:
            base_model = resumable_production_model(run, read_release(lake, release))
        assert (base_model is not None and base_model.id == model) == going
    same = {
        **going_on,
        "train": {**going_on["train"], "workers": 1, "cpus_per_worker": 2, "checkpoint_steps": 7},  # type: ignore[dict-item]
        "evaluate": {"beams": 50},
        "gates": {},
    }
    seeded = {**other, "train": {**recipe["train"], "seed": 1}}  # type: ignore[dict-item]
    keys = [model_key(made, Settings.model_validate(each)) for each in (other, going_on, same, seeded)]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    for _ in range(2):
        assert run_command(["release", "rollback", "--to", "r-000001", "--lake", lake.uri]) == 0
    assert "production -> (r-000001, no model) already, nothing was moved" in capsys.readouterr().out


def test_what_came_after_the_cutoff_changes_no_vector_and_no_sid(tmp_path: Path, small: Path, recipe: Recipe) -> None:
    """The same bootstrap and night with other events after their cutoffs: every vector and SID is the same."""
    nights = [f"i{item:04d}" for item in (*range(40), 40, 41, 42)]
    write_items(small / "night.jsonl", 40, 3)
    write_log(small / "night.csv", nights, 20, 400, START + timedelta(days=20))
    cutoffs = {"log": START + timedelta(days=14), "night": START + timedelta(days=30)}
    before = {name: (small / f"{name}.csv").read_text().splitlines() for name in cutoffs}
    found = []
    for number in range(2):
        if number:
            for name, cutoff in cutoffs.items():
                late = [line > "" and cutoff.isoformat() < line.split(",")[2] for line in before[name]]
                told = zip(before[name], late, strict=True)
                lines = [line.replace("u1,", "u2,") if after else line for line, after in told]
                assert lines != before[name]
                (small / f"{name}.csv").write_text("\n".join(lines[:-50]) + "\n")
        lake = start(str(tmp_path / f"lake{number}"), small, recipe, as_of="2024-03-01", cutoff=str(cutoffs["log"]))
        nightly(
            lake.uri,
            None,
            [str(small / "night.jsonl")],
            [str(small / "night.csv")],
            as_of="2024-04-01",
            cutoff=str(cutoffs["night"]),
        )
        stored = lake.frame("vectors").select("item_id", "modality", "vector").sort("item_id", "modality")
        found.append((stored, sids(lake, "production")))
    assert found[0][0].filter(pl.col("modality") == "collaborative").height > 40
    assert found[0][0].equals(found[1][0])
    assert found[0][1] == found[1][1]


def test_nights_of_events_alone_of_deletions_and_of_prices_assign_nothing_and_drift_nothing(
    tmp_path: Path, small: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    deleting = {**recipe, "items": {"deleted": "gone"}}
    lake = start(str(tmp_path / "lake"), small, deleting)
    first = sids(lake, "r-000001")
    write_log(small / "more.csv", ["i0000", "i0001", "i0002", "i0003"], 4, 8, START)
    nightly(lake.uri, None, None, [str(small / "more.csv")])
    assert sids(lake, "r-000002") == first
    (small / "gone.csv").write_text("item_id,title,genres,gone\ni0003,bee bee 3,music,1.0\n")
    nightly(lake.uri, None, [str(small / "gone.csv")])
    assert sids(lake, "r-000003") == {item: sid for item, sid in first.items() if item != "i0003"}
    capsys.readouterr()
    for item, told in (("i0003", "no SID, deleted  (r-000003)"), ("i0002", "  (r-000003)")):
        assert run_command(["item", "explain", item, "--lake", lake.uri]) == 0
        first_line = capsys.readouterr().out.splitlines()[0]
        assert first_line.endswith(told)
        assert ("deleted" in first_line) == (item == "i0003")
    row = {**json.loads((small / "items.jsonl").read_text().splitlines()[5]), "price": 9.99}
    (small / "prices.jsonl").write_text(json.dumps(row) + "\n")
    nightly(lake.uri, None, [str(small / "prices.jsonl")])
    assert read_release(lake, "r-000004").counts["drifted"] == 0
    assert sids(lake, "r-000004") == sids(lake, "r-000003")


def test_a_night_says_which_settings_it_does_not_apply(
    tmp_path: Path, small: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = start(str(tmp_path / "lake"), small, recipe)
    book = read_release(lake, "production").codebook.id
    write_items(small / "night.jsonl", 40, 2)
    capsys.readouterr()
    other = {
        **recipe,
        "codebook": {**recipe["codebook"], "slack": 1.9},
        "fusion": {**recipe["fusion"], "dim": 8},
        "train": {"epochs": 7},
    }
    assert nightly(lake.uri, {**other, "collaborative": None}, [str(small / "night.jsonl")])["made"]
    said = capsys.readouterr().out
    assert "warning: collaborative, fusion.dim, codebook.slack differ from the recipe of r-000001" in said
    assert "`sidmill run backfill` fits anew" in said
    assert read_release(lake, "production").codebook.id == book
