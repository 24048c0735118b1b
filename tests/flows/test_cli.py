"""The command says what is wrong in one line, with the remedy, and exits as documented."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.main import run_command
from flows.recipe import RecipeError, load_recipe
from storage.lake import Lake
from storage.runs.record import runs
from tokenizer.spec import RefitSpec


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["lake", "status"], "there is no lake at"),
        (["run", "nightly"], "there is no lake at"),
        (["run", "bootstrap", "--recipe", "nowhere"], "no recipe 'nowhere'"),
        (["run", "bootstrap", "--set", "codebook.slack=0.5"], "codebook.slack = 0.5"),
        (["run", "bootstrap", "--set", "items.titel=x"], "the fields here are csv, deleted, image, image_roots"),
        (["run", "bootstrap", "--set", "items.titel=x"], "did you mean 'title'?"),
        (["run", "bootstrap", "--set", "text.fields=title"], "text.fields = 'title': must be a list"),
        (
            ["run", "bootstrap", "--set", "codebook.levels=[{code=3}]"],
            "codebook.levels.0.codes = {'code': 3}: is required",
        ),
        (["run", "bootstrap", "--set", "generator.dim=36"], "default.toml: generator: generator.dim=36 divided by"),
        (["run", "bootstrap", "--set", "nonsense"], "section.field=value"),
        (["run", "bootstrap", "--set", "budget.quarantine_share=2"], "budget.quarantine_share = 2"),
        (["run", "bootstrap", "--as-of", "yesterday"], "'yesterday' is not a date or time"),
        (["run", "ingest", "--interactions", "gone.csv"], "gone.csv"),
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
        "from flows.cli.main import main; main()"
    )
    command = [sys.executable, "-c", script, "lake", "status", "--lake", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert "there is no lake at" in done.stderr


def test_what_is_asked_for_wrongly_is_refused_before_a_server_is_started(tmp_path: Path) -> None:
    script = (
        "import sys; from flows.cli.main import run_command; "
        "code = run_command(sys.argv[1:]); assert 'prefect' not in sys.modules and 'torch' not in sys.modules; "
        "sys.exit(code)"
    )
    for wrong in (["--items", "gone.jsonl"], ["--recipe", "gone.toml"], ["--as-of", "soon"]):
        command = [sys.executable, "-c", script, "run", "bootstrap", *wrong, "--lake", str(tmp_path / "lake")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("sidmill: error: ")


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
    nowhere = str(tmp_path / "none" / "page.html")
    assert run_command(["report", "--lake", uri, "--output", nowhere]) == 1
    assert not Path(nowhere).parent.exists()
    _the_grounding_corpus_is_written_once(uri, tmp_path / "corpus", capsys)
    _the_trie_is_written_in_both_formats(uri, tmp_path, capsys)


def _the_grounding_corpus_is_written_once(uri: str, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["release", "export-grounding", "--output", str(corpus), "--lake", uri]
    assert run_command(command) == 0
    written = {path.name: path.read_bytes() for path in corpus.iterdir()}
    manifest = json.loads(written["manifest.json"])
    assert manifest["release"] == "r-000001"
    assert manifest["rows"]["sid_to_title"] == manifest["rows"]["title_to_sid"] == 40
    assert manifest["rows"]["attribute_of_sid"] == 40
    assert 0 < manifest["rows"]["co_consumed"] == 40 - manifest["left_out"].get("nothing_follows", 0)
    assert len(manifest["special_tokens"]) == 24
    assert {name: hashlib.sha256(data).hexdigest() for name, data in written.items() if name in manifest["parts"]} == (
        manifest["parts"]
    )
    assert written.keys() == {"manifest.json", *manifest["parts"]}
    rows = pq.read_table(corpus / "grounding-r-000001-00000.parquet")
    assert rows.column_names == ["task", "item_id", "prompt", "response", "sid"]
    assert rows.num_rows == sum(manifest["rows"].values())
    assert run_command(command) == 0
    assert {path.name: path.read_bytes() for path in corpus.iterdir()} == written
    (corpus / "part-00000.parquet").touch()
    assert run_command(command) == 1
    assert "contains part-00000.parquet; give an empty folder" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in corpus.iterdir()} == {**written, "part-00000.parquet": b""}


def _the_trie_is_written_in_both_formats(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trie = tmp_path / "sids.trie"
    assert run_command(["release", "export-trie", "production", str(trie), "--lake", uri]) == 0
    assert run_command(["release", "export-trie", "production", str(tmp_path / "gone" / "a"), "--lake", uri]) == 1
    assert f"there is no folder {tmp_path / 'gone'} for a: create it" in capsys.readouterr().err
    from tokenizer.trie.trie import Trie

    native = Trie.open(trie)
    assert len(native) == 40
    arrow = tmp_path / "sids.arrow"
    assert run_command(["release", "export-trie", "r-000001", str(arrow), "--format", "arrow", "--lake", uri]) == 0
    table = pa.ipc.open_file(arrow).read_all()
    assert table.schema.metadata[b"native_sha256"].decode() == native.sha256
    sids = table.filter(table["item_id"].is_valid())
    assert sids["prefix"].to_pylist() == native.codes().tolist()
    assert sids["item_id"].to_pylist() == native.item_ids.to_pylist()


def test_runs_and_refused_rows_are_shown_with_what_leads_back_to_them(
    tmp_path: Path, small: Path, recipe: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.bootstrap import bootstrap

    uri = str(tmp_path / "lake")
    (small / "noise.jpg").write_bytes(b"no picture at all")
    with (small / "items.jsonl").open("a") as file:
        file.write('{"item_id": "P1", "title": "a print", "image": "noise.jpg"}\n')
        file.write('{"item_id": "P2", "title": "another", "image": "gone.jpg"}\n')
    strict = {**recipe, "image": {}, "codebook": {"levels": [{"codes": 128, "source": "nothing"}]}}
    with pytest.raises(ValueError, match="codebook encode 'nothing'"):
        bootstrap(uri, strict, [str(small / "items.jsonl")])
    bootstrap(uri, {**recipe, "image": {}}, [str(small / "items.jsonl")])
    capsys.readouterr()
    assert run_command(["quarantine", "list", "--lake", uri]) == 0
    told = capsys.readouterr().out
    assert re.search(r"embed image: image_undecodable  item P1  items.jsonl@\w+ row 40\n", told)
    assert re.search(r"ingest images: image_unreadable  item P2  items.jsonl@\w+ row 41\n", told)
    assert "0x" not in told
    assert run_command(["run", "list", "--lake", uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    failed, finished = runs(Lake(uri))
    assert [line.split()[:2] for line in lines[1:]] == [[failed.run, "failed"], [finished.run, "finished"]]
    assert lines[1].endswith("…")
    assert len(lines[1]) <= 80
    assert run_command(["run", "show", failed.run, "--lake", uri]) == 0
    assert "the levels of the codebook encode 'nothing'" in capsys.readouterr().out
    assert run_command(["run", "show", finished.run, "--lake", uri]) == 0
    told = capsys.readouterr().out
    assert "    release: r-000001\n" in told
    assert "    fusion.steps: 10\n" in told
    assert "max_text_chars" not in told


def test_a_changed_byte_is_found_by_verify(
    tmp_path: Path, small: Path, recipe: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.bootstrap import bootstrap
    from storage.releases.releases import read_release

    uri = str(tmp_path / "lake")
    bootstrap(uri, recipe, [str(small / "items.jsonl")])
    blob = Lake(uri).blobs.location(read_release(Lake(uri), "production").trie.sha256)
    data = bytearray(Path(blob).read_bytes())
    data[-1] ^= 1
    Path(blob).write_bytes(bytes(data))
    assert run_command(["lake", "verify", "--lake", uri]) == 1
    assert "is damaged: its bytes now have the hash" in capsys.readouterr().out


def test_every_recipe_that_comes_with_sidmill_is_valid_and_production_names_what_it_must() -> None:
    for name in ("default", "demo", "production"):
        assert load_recipe(name).hash
    production = load_recipe("production")
    assert (production.image.encoder, production.image.model) == ("open-clip", "ViT-B-32")  # type: ignore[union-attr]
    assert production.image.pretrained.startswith("laion2b")  # type: ignore[union-attr]


def test_the_hash_of_a_recipe_follows_what_comes_out_and_not_where_it_runs() -> None:
    assert load_recipe("demo").hash == load_recipe("demo", ["compute.cpus=9"]).hash
    assert load_recipe("demo").hash != load_recipe("demo", ["codebook.slack=1.25"]).hash
    with pytest.raises(RecipeError, match="is a field, not a section"):
        load_recipe("demo", ["about.x=1"])


def test_half_of_a_gate_may_be_overridden() -> None:
    none = load_recipe("demo").model_dump(mode="json")
    assert none["refit"] is None
    added = load_recipe(None, ["refit.budget=0.05"], none).refit
    assert added == RefitSpec(budget=0.05), "a section that the recipe of a release does not have"
    gate = load_recipe("default", ["gates.capacity_used.limit=0.5"]).gates.capacity_used
    assert (gate.limit, gate.severity) == (0.5, "warn")


def test_each_package_resolves_inside_this_checkout() -> None:
    from importlib import import_module

    root = Path(__file__).resolve().parents[2]
    for package in (
        "sidmill",
        "flows",
        "pipelines",
        "training",
        "tokenizer",
        "storage",
        "learning",
        "plugins",
        "infra",
    ):
        assert Path(str(import_module(package).__file__)).is_relative_to(root)
