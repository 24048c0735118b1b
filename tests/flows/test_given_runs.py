"""Runs on vectors that were made elsewhere: no encoder is loaded, and a night reads what is new."""

import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from conftest import THEMES, write_items
from flows import candidates
from flows.backfill import backfill
from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from flows.inspect.verify import verify
from flows.nightly import nightly
from flows.recipe import RecipeError, load_recipe, parse_recipe
from flows.steps.candidate import make_candidate
from flows.steps.embed import EncoderChanged
from pipelines.sources.row import SourceError
from sidmill.release import open_trie
from storage.lake import Lake
from storage.quarantine import by_reason
from storage.releases.models import models_of
from storage.releases.releases import published, read_release
from storage.runs.record import runs
from storage.schemas import TABLES

Recipe = dict[str, object]
DIM = 12
ENCODERS = ("sentence_transformers", "transformers", "open_clip", "onnxruntime")
REFUSED = """
import os, sys
from importlib.machinery import PathFinder

class Refuse:
    # PyTorch looks where such packages are, and does not import them.
    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path) if name.split(".")[0] in {encoders} else None
        if spec is not None:
            spec.loader = self
        return spec

    def create_module(self, spec):
        raise AssertionError(f"{{spec.name}} is imported")

    def exec_module(self, module):
        raise AssertionError(f"{{module}} is imported")

sys.meta_path.insert(0, Refuse())
with open({folder!r} + f"/{{os.getpid()}}", "w") as told:
    told.write(" ".join(sys.orig_argv))
"""
"""A `sitecustomize` with which no process imports an encoder; each leaves its command in a folder."""
ALONE = """
import json, sys
from flows.backfill import backfill
from flows.bootstrap import bootstrap
from flows.nightly import nightly
from flows.train import train
from pipelines.compute.cluster import shutdown

lake, recipe, data = {lake!r}, json.loads({recipe!r}), {data!r}
made = [bootstrap(lake, recipe, [data + "/items.jsonl"], [data + "/log.csv"])]
train(lake)
made.append(nightly(lake, None, [data + "/night.jsonl"], overrides=["vectors.mine.path=" + data + "/night.parquet"]))
recipe["codebook"] = {{"levels": [{{"codes": 16}}, {{"codes": 16}}]}}
made.append(backfill(lake, recipe))
assert not {encoders} & {{name.split(".")[0] for name in sys.modules}}
shutdown()
print(json.dumps(made))
"""


def vectors_of(items: list[str], shift: float = 0.0) -> pl.DataFrame:
    """Vectors near that of an item's theme."""
    draw = np.random.default_rng(0)
    themes = draw.standard_normal((len(THEMES), DIM))
    rows = [themes[int(item[1:]) % len(THEMES)] + 0.1 * draw.standard_normal(DIM) + shift for item in items]
    return pl.DataFrame({"item_id": items, "vector": [row.tolist() for row in rows]})


@pytest.fixture
def given(small: Path, recipe: Recipe) -> Recipe:
    """A recipe with given vectors alone; `vectors.parquet` has those of the first 40 items, but for i0039."""
    vectors_of([f"i{number:04d}" for number in range(39)]).write_parquet(small / "vectors.parquet")
    del recipe["text"], recipe["collaborative"]
    return {**recipe, "vectors": {"mine": {"path": str(small / "vectors.parquet")}}}


def start(tmp_path: Path, small: Path, recipe: Recipe) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    bootstrap(lake.uri, recipe, [str(small / "items.jsonl")], [str(small / "log.csv")])
    return lake


def sids(lake: Lake) -> dict[str, tuple[int, ...]]:
    trie = open_trie(lake, read_release(lake, "production"))
    return {item: tuple(codes) for item, codes in zip(trie.item_ids.to_pylist(), trie.codes().tolist(), strict=True)}


def versions(lake: Lake) -> dict[str, int]:
    return {table: lake.version(table) for table in TABLES}


def test_bootstrap_training_night_and_backfill_on_given_vectors_alone_import_no_encoder_in_any_process(
    tmp_path: Path, small: Path, given: Recipe
) -> None:
    write_items(small / "night.jsonl", 40, 4)
    vectors_of([f"i{number:04d}" for number in range(40, 44)]).write_parquet(small / "night.parquet")
    lake, started = Lake(str(tmp_path / "lake")), tmp_path / "started"
    started.mkdir()
    names = {"encoders": set(ENCODERS), "folder": str(started)}
    (tmp_path / "sitecustomize.py").write_text(REFUSED.format(**names))
    on_ray = json.dumps({**given, "compute": {"in_process_below": 0, "cpus": 3}})
    program = ALONE.format(**names, lake=lake.uri, recipe=on_ray, data=str(small))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    workers = [each for each in started.iterdir() if "default_worker.py" in each.read_text()]
    assert len(workers) >= 2, "those of the training at least"
    (model,) = models_of(lake, "r-000001")
    assert len(model.card.history) == 2
    made = json.loads(done.stdout.splitlines()[-1])
    assert [each["made"] for each in made] == [True] * 3
    first, second, third = (read_release(lake, each["release"]) for each in made)
    assert first.items == 39
    assert (second.items, second.counts["new_items"]) == (43, 4)
    assert third.items == 43, "items that the night's file alone has keep their vectors"
    assert first.encoders["mine"].details == {"kind": "given", "name": "mine", "dim": DIM, "version": 1}
    assert list(third.encoders) == ["mine"]


def test_a_dry_run_of_a_night_counts_items_that_wait_for_vectors_and_bad_vectors_by_reason(
    tmp_path: Path, small: Path, given: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = start(tmp_path, small, given)
    write_items(small / "night.jsonl", 40, 4)
    bad = [[float("nan"), *[1.0] * (DIM - 1)], [0.0] * DIM, [0.0] * DIM, [1.0] * DIM]
    night = pl.DataFrame({"item_id": [f"i00{number}" for number in range(39, 43)], "vector": bad})
    night.write_parquet(small / "night.parquet")
    capsys.readouterr()
    vectors = ("--set", f"vectors.mine.path={small / 'night.parquet'}", "--items", str(small / "night.jsonl"))
    assert run_command(["run", "nightly", "--dry-run", *vectors, "--lake", lake.uri]) == 0
    told = capsys.readouterr().out
    assert "for at most 5 items beside the 39 of r-000001, of which 1 wait in the lake, under its codebook" in told
    assert "of the first 4 rows would be refused: given_vector_zero 2, given_vector_not_finite 1" in told
    gone = [{"item_id": f"i{number:04d}", "deleted": True} for number in range(30)]
    (small / "gone.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gone))
    nightly(lake.uri, None, [str(small / "gone.jsonl")], overrides=["gates.shrinkage.limit=1"])
    (small / "gone.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gone[:-1]))
    capsys.readouterr()
    gone_and_new = ("--items", str(small / "gone.jsonl"), "--items", str(small / "night.jsonl"))
    assert run_command(["run", "nightly", "--dry-run", *gone_and_new, "--lake", lake.uri]) == 0
    told = capsys.readouterr().out
    assert "for at most 5 items beside the 9 of r-000002, of which 1 wait in the lake" in told
    assert "56% of the 78 planned, with SIDs of deleted items" in told


def test_a_night_takes_late_and_changed_vectors_and_stores_nothing_twice(
    tmp_path: Path, small: Path, given: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = start(tmp_path, small, given)
    before, tables = sids(lake), versions(lake)
    assert by_reason(lake) == {"no_vector": 1}
    assert not nightly(lake.uri)["made"], "nothing is new"
    assert versions(lake) == tables

    others = [f"i{number:04d}" for number in range(1, 40)] + ["i9999"]
    pl.concat([vectors_of(["i0000"], shift=3.0), vectors_of(["i0000", *others])[1:]]).write_parquet(
        small / "vectors.parquet"
    )
    capsys.readouterr()
    assert nightly(lake.uri)["made"]
    assert "vectors of 40 items, 1 rows of ids that the catalogue does not have" in capsys.readouterr().out
    after = sids(lake)
    assert {item: after[item] for item in before} == before
    assert after.keys() - before.keys() == {"i0039"}
    assert by_reason(lake) == {}
    assert lake.frame("drift")["item_id"].to_list() == ["i0000"]
    stored = lake.frame("vectors").filter(modality="mine")
    assert stored.height == 41
    assert not stored.select("item_id", "content_hash").is_duplicated().any()
    tables = versions(lake)
    assert not nightly(lake.uri)["made"]
    assert versions(lake) == tables


def test_a_night_with_another_version_or_width_is_refused_and_a_backfill_takes_it(
    tmp_path: Path, small: Path, given: Recipe
) -> None:
    lake = start(tmp_path, small, given)
    write_items(small / "night.jsonl", 40, 1)
    stored = lake.rows("vectors")
    with pytest.raises(EncoderChanged, match=r"mine encoder .*version: 1 -> 2\).*sidmill run backfill"):
        nightly(lake.uri, None, [str(small / "night.jsonl")], overrides=["vectors.mine.version=2"])
    wider = vectors_of([f"i{number:04d}" for number in range(41)]).with_columns(
        pl.col("vector").list.concat(pl.lit([1.0]))
    )
    wider.write_parquet(small / "vectors.parquet")
    with pytest.raises(EncoderChanged, match=rf"dim: {DIM} -> {DIM + 1}\)"):
        nightly(lake.uri)
    with pytest.raises(EncoderChanged, match=r"without \[refit\]"):
        backfill(lake.uri, {**given, "refit": {"budget": 0.1}})
    assert lake.rows("vectors") == stored, "refused before anything is stored"
    made = read_release(lake, backfill(lake.uri)["release"])
    assert made.items == 41
    assert made.encoders["mine"].details["dim"] == DIM + 1
    assert published(lake).release == "r-000001"  # type: ignore[union-attr]


def test_a_backfill_that_publishes_what_an_earlier_one_made_is_a_recorded_run(
    tmp_path: Path, small: Path, given: Recipe
) -> None:
    lake = start(tmp_path, small, given)
    wider = {**given, "codebook": {"levels": [{"codes": 16}, {"codes": 16}]}}
    candidate = backfill(lake.uri, wider)["release"]
    assert backfill(lake.uri, wider, publish_when_done=True)["release"] == candidate
    assert published(lake).release == candidate  # type: ignore[union-attr]
    assert runs(lake)[-1].state == "finished"
    assert [each for each in verify(lake) if each.fault] == []


def test_given_vectors_are_fused_with_others_weighed_and_read_by_a_level(
    tmp_path: Path, small: Path, given: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {
        **given,
        "attributes": {"fields": ["genres"], "dim": 8},
        "vectors": {"items": {"path": str(small / "vectors.parquet"), "dim": DIM, "version": 3}},
        "fusion": {"dim": 16, "hidden": 16, "epochs": 1, "steps": 4, "batch_size": 32, "weights": {"items": 2.0}},
        "codebook": {"levels": [{"codes": 8, "source": "items"}, {"codes": 8, "source": "items"}, {"codes": 8}]},
    }
    lake = start(tmp_path, small, recipe)
    assert "over attributes 40, items 39" in capsys.readouterr().out
    assert by_reason(lake) == {"missing_source": 1}
    assert sorted(read_release(lake, "production").encoders) == ["attributes", "items"]
    assert len(sids(lake)) == 39


def test_vectors_that_cannot_be_read_are_told_before_a_lake_is_made(tmp_path: Path, small: Path, given: Recipe) -> None:
    (small / "vectors.parquet").unlink()
    with pytest.raises(SourceError, match=r"vectors\.mine\.path: no file or folder at"):
        start(tmp_path, small, given)
    assert not (tmp_path / "lake").exists()


def test_a_night_whose_vectors_cannot_be_read_is_recorded_as_failed(tmp_path: Path, small: Path, given: Recipe) -> None:
    lake = start(tmp_path, small, given)
    (small / "vectors.parquet").unlink()
    with pytest.raises(SourceError, match="no file or folder at"):
        nightly(lake.uri, None, [str(small / "items.jsonl")])
    last = runs(lake)[-1]
    assert (last.kind, last.state) == ("nightly", "failed")
    assert "no file or folder at" in (last.result.error or "")


def test_a_dry_run_knows_vectors_of_items_that_the_lake_has(
    tmp_path: Path, small: Path, given: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = start(tmp_path, small, given)
    write_items(small / "night.jsonl", 90, 2)
    night = ["run", "nightly", "--dry-run", "--items", str(small / "night.jsonl"), "--lake", lake.uri]
    assert run_command(night) == 0
    assert "is in the catalogue" not in capsys.readouterr().out
    vectors_of([f"x{number}" for number in range(9)]).write_parquet(small / "vectors.parquet")
    assert run_command(night) == 0
    assert "none of the first 9 ids is in the catalogue" in capsys.readouterr().out


def test_where_vectors_lie_is_no_part_of_the_hash_of_a_recipe_and_their_version_is() -> None:
    settings = {"vectors": {"mine": {"path": "a.parquet"}}}
    assert parse_recipe(settings).hash == load_recipe(None, ["vectors.mine.path=b.parquet"], settings).hash
    assert parse_recipe(settings).hash != load_recipe(None, ["vectors.mine.version=2"], settings).hash
    assert "vectors" not in parse_recipe({}).model_dump(mode="json")


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({"text": {"path": "a"}}, "text is the name of vectors that sidmill makes"),
        ({"a.b": {"path": "a"}}, r"vectors\.a\.b"),
        ({"mine": {"pth": "a", "path": "a"}}, r"did you mean 'path'\? the fields here are column, dim"),
        ({"mine": {}}, r"vectors\.mine\.path.*is required"),
    ],
)
def test_a_wrong_section_of_vectors_is_told_with_its_place(vectors: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe({"vectors": vectors})


def test_what_is_as_long_as_the_catalogue_is_gone_before_a_candidate_is_made(
    tmp_path: Path, small: Path, given: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect keeps the contexts of steps, with what these were given, until the flow ends."""
    held: dict[str, weakref.ref[Any]] = {}

    def noted(name: str) -> Callable[..., Any]:
        step = getattr(candidates, name)

        def call(*arguments: Any) -> Any:
            found = step(*arguments)
            held[name] = weakref.ref(found[-1] if isinstance(found, tuple) else found)
            return found

        return call

    def made(*arguments: Any) -> Any:
        gc.collect()
        left = [name for name, each in held.items() if each() is not None]
        assert (sorted(held), left) == (["fit", "fit_input", "read_given"], [])
        return make_candidate(*arguments)

    for name in ("read_given", "fit_input", "fit"):
        monkeypatch.setattr(candidates, name, noted(name))
    monkeypatch.setattr(candidates, "make_candidate", made)
    start(tmp_path, small, given)
