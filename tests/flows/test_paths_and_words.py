"""Paths and words of the command line that cannot be used are answered in one line that leads on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.main import run_command
from storage.lake import Lake
from storage.releases.pointers import pointer_history
from storage.releases.publishing import hold_of
from storage.runs.record import RunRecord, new_run_id


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["lake", "status", "--lake", ""], "--lake"),
        (["lake", "status", "--lake="], "--lake"),
        (["run", "nightly", "--items", "", "--lake", "x"], "--items"),
        (["run", "nightly", "--recipe", " ", "--lake", "x"], "--recipe"),
        (["lake", "backup", "", "--lake", "x"], "an argument"),
        (["report", "--output", "", "--lake", "x"], "--output"),
    ],
)
def test_an_empty_word_is_refused_as_a_variable_that_is_not_set(
    words: list[str], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sidmill: error: {option} is empty: give a value, or leave it out.")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_text_of_a_setting_is_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--set", "interactions.session_id="], ["--set=interactions.session_id="]):
        run_command(["lake", "check", *words, "--lake", "/no/lake"])
        assert "is empty" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["report", "--output", "{folder}"], "{folder}: Is a directory; give the path of a file, not of a folder."),
        (["release", "export-trie", "production", "{folder}"], "{folder}: Is a directory; give the path of a file"),
        (["lake", "erase", "--users-from", "{folder}/none"], "{folder}/none: No such file or directory; check the"),
        (["serve", "--port", "99999"], "--port 99999: give a port from 1 to 65535."),
        (["serve", "--metrics-port", "-1"], "--metrics-port"),
        (["lake", "gc", "--grace", "5"], '--grace "5" is no duration: write it as 7d, 12h or 90s.'),
    ],
)
def test_a_path_or_a_number_that_cannot_be_used_is_told_with_what_can(
    words: list[str], told: str, lake_of_format_2: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert run_command([*(each.format(folder=folder) for each in words), "--lake", lake_of_format_2.uri]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert told.format(folder=folder) in line
    assert "Errno" not in line


def test_a_source_that_may_not_be_read_is_told_as_that(lake_of_format_2: Lake, small: Path) -> None:
    (small / "items.jsonl").chmod(0)
    command = [sys.executable, "-m", "flows.cli.main", "run", "ingest", "--dry-run"]
    command += ["--items", str(small / "items.jsonl"), "--lake", lake_of_format_2.uri]
    if os.geteuid() == 0:  # root without the right to read any file
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    said = done.stdout + done.stderr
    assert "items.jsonl may not be read by the user of this command: change its permissions." in said


def test_a_reason_of_a_hold_is_shown_and_not_obeyed(lake_of_format_2: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    reason = "one\nproduction: r-000009\x1b[31m"
    assert run_command(["release", "hold", "--reason", reason, "--lake", lake_of_format_2.uri]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert r"one\nproduction: r-000009\x1b[31m" in line
    assert reason in str(hold_of(pointer_history(lake_of_format_2, "production")))


@pytest.mark.parametrize("section", ["vectors", "checks", "image", "refit", "sasrec"])
def test_a_run_is_shown_whatever_sections_its_recipe_has(
    lake_of_format_2: Lake, section: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {section: {"mine": {"path": "vectors.parquet"}}}
    record = RunRecord(lake_of_format_2, new_run_id("nightly"), "nightly", "", {"recipe": settings})
    record.begin()
    assert run_command(["run", "show", record.run, "--lake", lake_of_format_2.uri]) == 0
    assert "vectors.parquet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        ("> /dev/full", 1, "sidmill: error: No space left on device: the output, or a temporary file in TMPDIR"),
        (">&-", 0, ""),
        ("| true", 0, ""),
    ],
)
def test_an_output_that_is_full_or_closed_is_told_or_goes_nowhere(
    lake_of_format_2: Lake, redirected: str, code: int, said: str
) -> None:
    status = f"{sys.executable} -m flows.cli.main lake status --lake {lake_of_format_2.uri}"
    command = f"set -o pipefail; {status} {redirected}"
    done = subprocess.run(
        ["bash", "-c", command], stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert (done.returncode, done.stderr[: len(said)]) == (code, said)
    assert len(done.stderr.splitlines()) == bool(said)
