"""`sidmill recipe check` and `--dry-run` say what a run would do as the run itself would judge, and write nothing."""

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from conftest import write_items, write_log
from flows.cli.main import run_command
from flows.preflight.preflight import PlannedRun, preflight
from flows.preflight.report import Report
from flows.preflight.timing import fits_s, words
from flows.recipe import parse_recipe
from pipelines.ingest.accounting import record_source
from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.ingest.items.ingest import ingest_items
from pipelines.profile.sample import SAMPLE_ROWS
from pipelines.sources.files import find_sources
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec, ItemsWithoutImages
from storage.commit import Provenance
from storage.lake import Lake
from storage.runs.record import RunRecord

READ, SAMPLE, MAKES, TIME = "would read", "in a sample", "would make", "takes about"
WHO = Provenance("test", "test")


def look(folder: Path, recipe: dict[str, Any], *, kind: str = "bootstrap", lake: Lake | None = None) -> Report:
    """The report of a run over items.jsonl and log.csv of a folder."""
    settings = parse_recipe(recipe).model_dump(mode="json")
    files = [str(folder / "items.jsonl")], [str(folder / "log.csv")]
    return preflight(PlannedRun(kind, settings, *files, lake), quick=True)


def content(lake: Lake) -> dict[str, str]:
    """The hash of every file of a lake."""
    files = (path for path in Path(lake.uri).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_recipe(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_what_would_be_read_and_made_is_told_of_sound_data(small: Path, recipe: dict[str, Any]) -> None:
    found = look(small, recipe)
    assert (found.errors, found.warnings) == ([], [])
    assert [line.split()[-2] for line in found.lines[READ]] == ["40", "600"]
    assert found.lines[SAMPLE] == [
        "items         all 40 rows: 0 would be refused (0.0%)",
        "interactions  all 600 rows: 0 would be refused (0.0%)",
    ]
    text, codebook = found.lines[MAKES]
    assert text == "text          vectors of 40 of 40 sampled items; packaged-minilm; from title, genres"
    assert codebook == "codebook      rq-kmeans 8 x 8 x 8: 512 SIDs for 40 items, 80 planned"


@pytest.mark.parametrize("verb", ["bootstrap", "ingest"])
def test_a_dry_run_makes_no_lake(verb: str, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = tmp_path / "lake"
    sources = ["--items", str(small / "items.jsonl"), "--interactions", str(small / "log.csv")]
    assert (
        run_command(["run", verb, "--dry-run", *sources, "--set", "image.encoder=packaged-vit", "--lake", str(lake)])
        == 0
    )
    said = capsys.readouterr()
    assert f"Nothing was found that would stop the {verb}.\n" in said.out
    assert said.err == ""
    assert not lake.exists()


def test_a_dry_run_of_a_night_leaves_every_file_of_the_lake_as_it_is(
    old_lake: Lake, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(old_lake)
    assert (
        run_command(["run", "nightly", "--dry-run", "--items", str(small / "items.jsonl"), "--lake", old_lake.uri]) == 0
    )
    told = capsys.readouterr().out
    assert "for at most 40 items beside the 24 of r-000002, under its codebook" in told
    assert "warning: the codebook of r-000002 is planned for" in told
    assert content(old_lake) == before


def test_a_night_with_another_encoder_than_its_release_is_a_fault(
    old_lake: Lake, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["recipe", "check", "--quick", "--items", str(small / "items.jsonl"), "--lake", old_lake.uri]
    assert run_command(words) == 0
    assert run_command([*words, "--recipe", "default"]) == 1
    said = capsys.readouterr()
    assert re.search(r"^error: the \w+ encoder differs from the one that r-000002 pins \(", said.out, re.MULTILINE)
    assert "would stop the nightly" in said.err


def test_settings_that_a_night_does_not_apply_are_named(
    old_lake: Lake, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night = ["run", "nightly", "--dry-run", "--items", str(small / "items.jsonl"), "--lake", old_lake.uri]
    assert run_command(night) == 0
    assert "does not apply" not in capsys.readouterr().out
    assert run_command([*night, "--set", "codebook.slack=1.9", "--set", "train.epochs=7"]) == 0
    told = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert (
        "warning: codebook.slack differ from the recipe of r-000001, which was fitted, and a night does not apply"
        in told
    )


def test_a_source_that_the_lake_has_read_is_not_read_again(small: Path, tmp_path: Path, recipe: dict[str, Any]) -> None:
    lake, spec = Lake(str(tmp_path / "lake")), ItemsWithoutImages.of(ItemsSpec())
    source = find_sources(str(small / "items.jsonl"))[0]
    record_source(lake, ingest_items(lake, source, spec, datetime.now(UTC), WHO), WHO)
    found = look(small, recipe, lake=lake)
    assert found.lines[READ][0].endswith("items.jsonl: read before, nothing new")
    assert found.lines[SAMPLE] == ["interactions  all 600 rows: 0 would be refused (0.0%)"]
    assert "for about 40 items" in found.lines[MAKES][-1]
    assert found.errors == []


def test_the_refused_rows_of_a_sample_are_those_that_ingest_refuses(small: Path, tmp_path: Path) -> None:
    with (small / "items.jsonl").open("a") as file:
        file.write('{"item_id": "i0001", "title": "again"}\n{"item_id": "x"}\nno json\n{"title": "nameless"}\n')
    with (small / "log.csv").open("a") as file:
        file.write(
            "u1,i0001,yesterday,click,1\nu1,nowhere,2024-01-02,click,1\nu1,i0001,2024-01-02,click,many\n,i1,,,\n"
        )
    lake, now = Lake(str(tmp_path / "lake")), datetime.now(UTC)
    items = ingest_items(lake, find_sources(str(small / "items.jsonl"))[0], ItemsSpec(), now, WHO).stages[0]
    log = ingest_interactions(lake, find_sources(str(small / "log.csv"))[0], InteractionsSpec(), now, WHO).stages[0]
    told = [line.split(":", 1)[0].split() for line in look(small, {"text": {}}).lines[SAMPLE]]
    by_reason = {reason: int(rows) for rows, reason in (line for line in told if len(line) == 2)}
    assert by_reason == {**items.by_reason, **log.by_reason}
    assert len(by_reason) == 8


def test_more_refused_rows_than_the_budget_allows_are_a_fault_with_the_remedy(
    small: Path, recipe: dict[str, Any]
) -> None:
    rows = (small / "log.csv").read_text().splitlines()
    (small / "log.csv").write_text("\n".join(row.replace("2024-01-0", "01/2024/") for row in rows))
    found = look(small, recipe)
    assert len(found.errors) == 1
    assert "of 600 rows would be refused, more than budget.quarantine_share = 0.05 allows" in found.errors[0]
    assert "write times as ISO 8601" in found.errors[0]
    assert look(small, {**recipe, "budget": {"quarantine_share": 1.0}}).errors == []


def test_events_of_items_beyond_the_sample_are_not_called_unknown(small: Path, recipe: dict[str, Any]) -> None:
    rows = write_items(small / "items.jsonl", 0, SAMPLE_ROWS + 500)
    write_log(small / "log.csv", [str(row["item_id"]) for row in rows], users=20, events=600)
    with (small / "log.csv").open("a") as file:
        file.writelines(f"u1,{row['item_id']},2024-01-02,click,1\n" for row in rows[-300:])
    found = look(small, {**recipe, "codebook": {"levels": [{"codes": 64}] * 3}})
    assert found.errors == []
    assert "0 would be refused (0.0%); items that the catalogue's sample lacks" in found.lines[SAMPLE][1]


def test_a_log_whose_ids_are_of_another_column_is_warned_of(small: Path, recipe: dict[str, Any]) -> None:
    recipe["interactions"] = {"item_id": "user_id"}
    found = look(small, recipe)
    assert "no event of the sample names an item of the catalogue's sample" in found.warnings[0]
    assert "unknown_item 600" in found.errors[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"codebook": {"levels": [{"codes": 4}, {"codes": 4}]}}, "4 x 4 codes give 16 SIDs, but 80 are planned"),
        (
            {"codebook": {"levels": [{"codes": 8, "source": "image"}] * 3}},
            "codebook.levels encode image, but the recipe",
        ),
        ({"text": {"encoder": "sentence-transformers", "model": "."}}, "the text encoder cannot be loaded: [text]"),
        ({"text": {"fields": ["titel"]}}, "no sampled item has text: check the names in text.fields"),
        ({"vectors": {"mine": {"path": "nowhere.parquet"}}}, "vectors.mine.path: no file or folder at"),
        ({"items": {"item_id": "iten_id"}}, "missing_item_id 40"),
        ({"text": None, "collaborative": None}, "the recipe makes no vectors: add a section"),
    ],
)
def test_what_would_stop_a_run_is_told_before_anything_is_encoded(
    change: dict[str, Any], told: str, small: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (small / "empty").mkdir()
    monkeypatch.chdir(small / "empty")
    assert any(told in error for error in look(small, {**recipe, **change}).errors)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"items": {"image": "cover"}}, "items.image names the column 'cover', which no sampled row has; the columns"),
        ({"interactions": {"value": "valu"}}, "did you mean 'value'?"),
        ({"interactions": {"event_type": "Event-Type"}}, "log.csv has no column 'Event-Type'; if 'event_type' is that"),
        ({"text": {"fields": ["title", "genre"]}}, "text.fields names genre, which no item has"),
    ],
)
def test_names_that_nothing_has_are_warned_of_with_what_may_be_meant(
    change: dict[str, Any], told: str, small: Path, recipe: dict[str, Any]
) -> None:
    found = look(small, {**recipe, **change})
    assert found.errors == []
    assert any(told in warning for warning in found.warnings)


def test_every_fault_is_told_at_once_and_the_exit_code_is_1(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "r.toml", '[text]\nfields = ["nothing"]\n[codebook]\nlevels = [{ codes = 2 }]\n')
    words = ["recipe", "check", "--quick", "--recipe", recipe, "--items", str(small / "items.jsonl"), "gone.csv"]
    assert run_command(words) == 1
    said = capsys.readouterr()
    assert [line.split(" ", 1)[0] for line in said.out.splitlines() if line.startswith("error")] == ["error:"] * 3
    assert said.err == (
        "sidmill: error: 3 faults would stop the bootstrap: see the lines above that begin with `error:`.\n"
    )


def test_a_check_against_a_lake_that_is_not_there_says_so(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["recipe", "check", "--quick", "--items", str(small / "items.jsonl"), "--lake", str(tmp_path / "none")]
    assert run_command(words) == 1
    assert "there is no lake at" in capsys.readouterr().err


def test_a_check_of_a_catalogue_that_cannot_be_read_does_not_ask_for_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "items.csv").write_text("item_id;title\n1;a\n")
    assert run_command(["recipe", "check", "--quick", "--items", str(tmp_path / "items.csv")]) == 1
    assert capsys.readouterr().out.count("error: ") == 1


def test_a_check_without_a_catalogue_asks_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["recipe", "check", "--quick"]) == 1
    assert "error: there is no catalogue: give one with --items PATH\n" in capsys.readouterr().out


def test_columns_of_a_catalogue_that_only_its_folders_have_are_told(tmp_path: Path) -> None:
    write_items(tmp_path / "shop=a" / "items.jsonl", 0, 40)
    settings = parse_recipe({"text": {}, "codebook": {"levels": [{"codes": 8}] * 3}}).model_dump(mode="json")
    found = preflight(PlannedRun("bootstrap", settings, [str(tmp_path)], []), quick=True)
    assert found.warnings == [
        "columns in the names of folders are not read as attributes: shop. To read them, list them in items.partitions"
    ]


def test_an_encoder_that_is_not_installed_is_told_by_name(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "r.toml", '[text]\nencoder = "minilm"\n')
    assert run_command(["recipe", "check", "--recipe", recipe, "--items", str(small / "items.jsonl")]) == 1
    assert "there is no encoder 'minilm'" in capsys.readouterr().err


def test_a_report_in_json_has_lines_warnings_and_errors(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["recipe", "check", "--quick", "--json", "--items", str(small / "items.jsonl")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["kind", "lines", "warnings", "errors"]
    assert found["errors"] == []


def test_an_encoder_of_an_installed_package_is_timed_on_the_sample(small: Path, recipe: dict[str, Any]) -> None:
    settings = parse_recipe(recipe).model_dump(mode="json")
    found = preflight(PlannedRun("bootstrap", settings, [str(small / "items.jsonl")], []))
    assert [line.split(" about ")[0].split()[:2] for line in found.lines[TIME][:2]] == [
        ["ingest", "items"],
        ["embed", "text"],
    ]
    assert found.lines[TIME][1].endswith("for about 40 items, by 40 of them on this machine")
    assert "there is no log" in found.warnings[0]


def test_an_encoder_that_is_not_loaded_is_timed_by_the_last_run_that_encoded_enough(
    small: Path, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    assert "embed text    unknown for about 40 items, because of --quick" in look(small, recipe, lake=lake).lines[TIME]
    for name, rows, seconds in (("nightly-1", 100, 50.0), ("nightly-2", 200, 600.0), ("nightly-3", 2, 9.0)):
        record = RunRecord(lake, name, "nightly", "hash", {})
        record.begin()
        record.stage("embed text", {"rows_out": rows, "seconds": seconds})
        record.end("finished", {})
    told = look(small, recipe, lake=lake).lines[TIME][2]
    assert told == "embed text    about 2 minutes for about 40 items, by the rate of nightly-2"


def test_what_comes_after_the_encoders_takes_as_long_as_in_the_last_run_that_made_something(
    small: Path, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    told = look(small, recipe, lake=lake).lines[TIME][-1]
    assert told.startswith("the rest      about 48 seconds on two cores, by docs/benchmarks.md: behaviour, fusion,")
    for name, made, seconds in (("bootstrap-1", True, 300.0), ("bootstrap-2", False, 900.0), ("nightly-1", True, 30.0)):
        record = RunRecord(lake, name, name[:-2], "hash", {})
        record.begin()
        for stage in ("ingest log", "embed text", "behaviour", "trie"):
            record.stage(stage, {"rows_out": 9, "seconds": seconds})
        record.end("finished", {"made": made})
    told = look(small, recipe, lake=lake).lines[TIME][-1]
    assert told == "the rest      about 10 minutes, as in bootstrap-1: behaviour, fusion, codebook, SIDs, trie, gates"


@pytest.mark.parametrize(
    ("items", "seconds"),
    [(1, 48), (10_000, 48), (100_000, 83), (1_000_000, 142), (10_000_000, 637), (20_000_000, 1274)],
)
def test_the_time_of_fits_lies_between_those_that_were_measured(items: int, seconds: float) -> None:
    assert fits_s(items) == pytest.approx(seconds, rel=0.01)


def test_pictures_are_opened_and_bad_ones_are_warned_of(small: Path, recipe: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in (small / "items.jsonl").read_text().splitlines()]
    (small / "bad.png").write_bytes(b"no picture")
    pictures = ["bad.png", "gone.png", "https://shop.example/a.png"]
    for row, picture in zip(rows, pictures, strict=False):
        row["image"] = picture
    (small / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "image         nothing of 3 pictures in the sample: there is no [image]" in look(small, recipe).lines[MAKES]
    found = look(small, {**recipe, "image": {}})
    assert (
        "3 of 40 sampled rows; packaged-vit; 0 of 2 pictures opened; not asked for on the web or in object stores: 1"
        in found.lines[MAKES][1]
    )
    assert "2 of 2 pictures would be refused, the first as image_undecodable" in found.warnings[0]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.2, "about a second"),
        (61, "about 61 seconds"),
        (190, "about 3.2 minutes"),
        (7000, "about 1.9 hours"),
        (1e7, "about 116 days"),
    ],
)
def test_durations_are_told_in_words(seconds: float, told: str) -> None:
    assert words(seconds) == told


def test_lines_are_broken_between_words_on_a_terminal_and_never_in_a_pipe() -> None:
    report = Report("bootstrap")
    report.add(READ, "items", "word " * 40)
    assert max(map(len, report.as_text(80))) <= 80
    assert any(len(line) > 200 for line in report.as_text())
