"""The command says what is wrong in one line, with the remedy, and exits as documented."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import run_command
from flows.recipe import RecipeError, load_recipe


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["run", "fly"], ["release", "show"], ["run", "nightly", "--no-such-flag"], ["item", "explain"]],
)
def test_bad_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(arguments) == 2
    assert "usage: sidmill" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lake", "status"], "there is no lake at"),
        (["run", "nightly"], "there is no lake at"),
        (["run", "bootstrap", "--recipe", "nowhere"], "no recipe 'nowhere'"),
        (["run", "bootstrap", "--set", "codebook.slack=0.5"], "codebook.slack = 0.5"),
        (["run", "bootstrap", "--set", "items.titel=x"], "fields here: deleted, image, item_id"),
        (["run", "bootstrap", "--set", "nonsense"], "section.field=value"),
    ],
)
def test_a_failure_is_one_message_with_the_remedy_and_exits_1(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*arguments, "--lake", str(tmp_path / "none")]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("sidmill: error: ")
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1


def test_the_executable_ends_with_its_code_whatever_a_library_does_when_it_is_torn_down(tmp_path: Path) -> None:
    """A library that aborts in its static destructors: the process is gone before, with its output and its code."""
    script = (
        "import ctypes, sys; libc = ctypes.CDLL(None); libc.__cxa_atexit(libc.abort, None, None); "
        "from flows.cli import main; main()"
    )
    command = [sys.executable, "-c", script, "lake", "status", "--lake", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert "there is no lake at" in done.stderr


def test_a_missing_source_is_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = str(tmp_path / "gone.jsonl")
    assert run_command(["run", "bootstrap", "--items", gone, "--lake", str(tmp_path / "lake")]) == 1
    assert gone in capsys.readouterr().err


def test_readers_print_json_that_names_what_the_design_promises(
    tmp_path: Path, small: Path, recipe: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.bootstrap import bootstrap

    uri = str(tmp_path / "lake")
    bootstrap(uri, recipe, [str(small / "items.jsonl")], [str(small / "log.csv")])
    capsys.readouterr()
    assert run_command(["lake", "status", "--json", "--lake", uri]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["tables"]["items"]["rows"] == 40
    assert status["aliases"] == {"production": {"release": "r-000001", "model": None}}
    release = status["releases"][0]
    assert release["codebook_sizes"] == [8, 8, 8]
    assert release["trie"]["sids"] == release["items"] == 40
    assert {"collision_rate", "utilisation", "gini"} <= release["metrics"].keys()
    assert {"name", "severity", "value", "limit", "passed"} <= release["gates"][0].keys()
    assert status["quarantine"] == {"rows": 0, "by_reason": {}}
    for command in (
        ["release", "list"],
        ["release", "show", "production"],
        ["item", "explain", "i0004"],
        ["run", "list"],
        ["quarantine", "list"],
        ["lake", "verify"],
    ):
        assert run_command([*command, "--json", "--lake", uri]) == 0
        json.loads(capsys.readouterr().out)
        assert run_command([*command, "--lake", uri]) == 0
        assert capsys.readouterr().out
    page = tmp_path / "page.html"
    assert run_command(["report", "--lake", uri, "--output", str(page)]) == 0
    text = page.read_text()
    assert "r-000001" in text
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    trie = tmp_path / "sids.trie"
    assert run_command(["release", "export-trie", "production", "--lake", uri, "--output", str(trie)]) == 0
    from tokenizer.trie import Trie

    assert len(Trie.open(trie)) == 40


def test_a_changed_byte_is_found_by_verify(
    tmp_path: Path, small: Path, recipe: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.bootstrap import bootstrap
    from storage.lake import Lake
    from storage.releases import read_release

    uri = str(tmp_path / "lake")
    bootstrap(uri, recipe, [str(small / "items.jsonl")])
    blob = Lake(uri).blobs.location(read_release(Lake(uri), "production").trie.sha256)
    data = bytearray(Path(blob).read_bytes())
    data[-1] ^= 1
    Path(blob).write_bytes(bytes(data))
    assert run_command(["lake", "verify", "--lake", uri]) == 1
    assert "bytes were changed" in capsys.readouterr().out


def test_every_recipe_that_comes_with_sidmill_is_valid_and_production_names_what_it_must() -> None:
    for name in ("default", "demo", "production"):
        assert load_recipe(name).hash
    production = load_recipe("production")
    assert (production.image.encoder, production.image.model) == ("open-clip", "ViT-B-32")  # type: ignore[union-attr]
    assert production.image.pretrained.startswith("laion2b")  # type: ignore[union-attr]


def test_the_hash_of_a_recipe_follows_what_comes_out_and_not_where_it_runs() -> None:
    assert load_recipe("demo").hash == load_recipe("demo", ["compute.cpus=9"]).hash
    assert load_recipe("demo").hash != load_recipe("demo", ["codebook.slack=1.25"]).hash
    with pytest.raises(RecipeError, match="is a value, not a section"):
        load_recipe("demo", ["about.x=1"])


def test_half_of_a_gate_may_be_overridden() -> None:
    gate = load_recipe("default", ["gates.capacity_used.limit=0.5"]).gates.capacity_used
    assert (gate.limit, gate.severity) == (0.5, "warn")


def test_each_package_resolves_inside_this_checkout() -> None:
    from importlib import import_module

    root = Path(__file__).resolve().parents[2]
    for package in ("flows", "pipelines", "tokenizer", "training", "storage", "infra"):
        assert Path(str(import_module(package).__file__)).is_relative_to(root)
