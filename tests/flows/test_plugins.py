"""A package outside the checkout adds a quantizer and an encoder: a bootstrap, a night and a training run with them."""

import csv
import json
import os
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conftest import SMALL_RECIPE, write_items
from flows.recipe import Recipe
from plugins.registry import MemberClash, Registry, UnknownMember
from storage.lake import Lake
from storage.releases.models import models
from storage.releases.releases import read_release
from tokenizer.codebook import Codebook
from tokenizer.registry import QUANTIZERS
from tokenizer.spec import CodebookSpec

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "tests" / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the example package is installed to: its wheel, built and unpacked."""
    folder = tmp_path_factory.mktemp("plugin")
    source, wheels, site = folder / "source", folder / "wheels", folder / "site"
    wheels.mkdir()
    subprocess.run(["cp", "-r", str(EXAMPLE), str(source)], check=True)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", build], check=True, cwd=source, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def sidmill(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(site, "-m", "flows.cli.main", *arguments)


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


IN_TURN = f"""
import json, sys
sys.path.append({str(ROOT / "tests")!r})
import ray
from in_process import trained_here
from flows.cli.main import run_command
from flows.steps import training
training.launch, training.connect, ray.cluster_resources = trained_here, lambda compute: None, dict
print([run_command(each) for each in json.loads(sys.argv[1])])
"""


def in_turn(site: Path, *commands: list[str]) -> subprocess.CompletedProcess[str]:
    """Run commands in one process, where trainings run too; the last line of its output are their exit codes."""
    return python(site, "-c", IN_TURN, json.dumps(commands))


def test_a_package_adds_members_that_are_listed_with_their_origin(site: Path) -> None:
    listed = json.loads(sidmill(site, "plugin", "list", "--json").stdout)
    found = {(each["kind"], each["name"]): each["from"] for each in listed}
    assert found["quantizer", "farthest-first"] == found["encoder", "hashed-words"] == "sidmill-example 1.2.0"
    assert found["source", "sqlite"] == found["fusion", "mixed"] == "sidmill-example 1.2.0"
    assert found["quantizer", "rq-kmeans"].startswith("sidmill ")
    assert ("quantizer", "farthest-first") not in {
        (each["kind"], each["name"]) for each in json.loads(sidmill(Path(), "plugin", "list", "--json").stdout)
    }


def test_a_bootstrap_a_night_and_a_training_run_with_a_package(site: Path, small: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        **SMALL_RECIPE,
        "text": {"encoder": "hashed-words", "fields": ["title", "genres"], "options": {"dim": 32}},
        "codebook": {"quantizer": "farthest-first", "levels": [{"codes": 8}] * 3, "options": {"sample": 30}},
        "fusion": {**SMALL_RECIPE["fusion"], "method": "mixed", "options": {"scale": 0.5}},  # type: ignore[dict-item]
        "gates": {"fullest_code": {"severity": "block"}},
        "generator": {**SMALL_RECIPE["generator"], "architecture": "scaled-decoder"},  # type: ignore[dict-item]
        "train": {"workers": 1, "epochs": 1, "batch_size": 64, "align_epochs": 1, "objective": "halving"},
    }
    recipe, lake = tmp_path / "r.toml", ["--lake", str(tmp_path / "lake")]
    recipe.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in settings.items()))
    log = _in_sqlite(small / "log.csv", tmp_path / "log.db")
    sources = ["--items", str(small / "items.jsonl"), "--interactions", log]
    write_items(tmp_path / "night" / "night.jsonl", 40, 4)
    commands = [
        ["run", "bootstrap", "--recipe", str(recipe), *sources, *lake],
        ["run", "nightly", "--items", str(tmp_path / "night"), *lake],
        ["run", "train", *lake],
    ]
    done = in_turn(site, *commands)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0]", done.stderr
    assert "farthest-first 8 x 8 x 8" in done.stdout + done.stderr

    opened = Lake(lake[1])
    release = read_release(opened, "production")
    assert (release.id, release.items) == ("r-000002", 44)
    (gate,) = [gate for gate in release.gates if gate.name == "fullest_code"]
    assert (gate.passed, gate.severity, gate.limit) == (True, "block", 0.5)
    assert 1 / 8 <= gate.value <= 0.5
    by = "sidmill-example 1.2.0"
    made = ("encoder hashed-words", "fusion mixed", "quantizer farthest-first", "gate fullest_code")
    assert release.packages == dict.fromkeys(made, by)
    assert read_release(opened, "r-000001").packages == dict.fromkeys(("source sqlite", *made), by)
    (model,) = models(opened)
    assert model.card.packages == {"architecture scaled-decoder": by, "objective halving": by}
    assert release.encoders["text"].details["from"] == by
    fusion = opened.blobs.get(release.fusion_blob)
    header = json.loads(fusion[8 : 8 + int.from_bytes(fusion[:8], "little")])["__metadata__"]
    assert json.loads(header["fusion"])["statistics"]["method_from"] == "sidmill-example 1.2.0"
    assert opened.frame("sources").filter(pl.col("kind") == "interactions")["uri"].to_list() == [log]
    statistics = json.loads(opened.frame("codebooks")["statistics"][0])
    assert statistics["quantizer_from"] == "sidmill-example 1.2.0"

    # Without the package what it made is named, and nothing else is harmed.
    gone = in_turn(Path(), ["run", "nightly", "--items", str(small / "items.jsonl"), *lake], ["lake", "status", *lake])
    assert gone.stdout.splitlines()[-1] == "[1, 0]"
    assert "there is no encoder 'hashed-words'" in gone.stderr
    assert "an entry point of the group sidmill.encoders" in gone.stderr
    with pytest.raises(UnknownMember, match="farthest-first"):
        Codebook.from_bytes(opened.blobs.get(release.codebook.blob))


def _in_sqlite(log: Path, path: Path) -> str:
    """Write a CSV file as a table of a database, and return its address."""
    header, *rows = csv.reader(log.read_text().splitlines())
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"CREATE TABLE log ({', '.join(header)})")
        database.executemany(f"INSERT INTO log VALUES ({', '.join('?' * len(header))})", rows)
        database.commit()
    return f"sqlite://{path}/log"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + "}"
    return json.dumps(value) if not isinstance(value, list) else "[" + ", ".join(map(_toml, value)) + "]"


def test_a_gate_of_a_package_changes_no_recipe_that_does_not_name_it(site: Path) -> None:
    code = "from flows.recipe import Recipe; print(Recipe().hash, 'fullest_code' in Recipe().model_dump()['gates'])"
    command = [sys.executable, "-c", code]
    found = {
        subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"},
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for folder in (site, ROOT)
    }
    assert found == {f"{Recipe().hash} False\n"}


def test_options_are_those_that_a_member_declares() -> None:
    with pytest.raises(ValueError, match=r"rq-kmeans has no options, but the recipe sets options\.sample"):
        CodebookSpec.model_validate({"levels": [{"codes": 4}], "options": {"sample": 3}})
    assert "options" not in CodebookSpec.model_validate({"levels": [{"codes": 4}]}).model_dump()


def test_a_name_that_is_declared_twice_or_by_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    with pytest.raises(UnknownMember, match=r"no quantizer 'x'; choose one of rq-kmeans, .*sidmill\.quantizers"):
        QUANTIZERS.get("x")
    twin = metadata.EntryPoint("rq-kmeans", "other:THING", "sidmill.quantizers")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [twin])
    with pytest.raises(MemberClash, match="quantizer 'rq-kmeans' is declared by sidmill"):
        _ = Registry("sidmill.quantizers", "quantizer", {"rq-kmeans": "a:b"}).members


def test_a_recipe_is_drafted_and_checked_for_a_source_and_an_encoder_of_a_package(site: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        database.execute("CREATE TABLE books (id, title, shelf)")
        database.executemany("INSERT INTO books VALUES (?, ?, ?)", [(n, f"book {n}", n % 3) for n in range(30)])
        database.commit()
    uri, recipe = f"sqlite://{tmp_path}/shop.db/books", str(tmp_path / "recipe.toml")
    drafted = sidmill(site, "recipe", "init", "--items", uri, "--output", recipe)
    assert (drafted.returncode, drafted.stderr) == (0, "")
    checked = sidmill(
        *(site, "recipe", "check", "--recipe", recipe, "--items", uri, "--set", "text.encoder=hashed-words"),
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "books: an unknown number of rows" in checked.stdout
    assert "all 30 rows: 0 would be refused" in checked.stdout
    assert "SIDs for 30 items, 60 planned" in checked.stdout
    assert "by 30 of them" in checked.stdout
