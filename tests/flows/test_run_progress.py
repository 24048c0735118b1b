"""Output of a run: every stage shows progress, and no line in a pipe or number on a narrow terminal is broken."""

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterType, FlowRunFilter, FlowRunFilterId
from rich.console import Console

from conftest import write_recipe
from flows.bootstrap import bootstrap
from flows.cli import show
from flows.inspect.status import ListedRelease, ReleaseStatus
from flows.runtime import progress, stage_artifact
from flows.runtime.progress import Display
from flows.runtime.server import ensure_server
from flows.runtime.stage_artifact import StageArtifact
from storage.lake import Lake
from storage.releases.manifest import Gate, TrieRef
from storage.runs.record import runs


def test_a_stage_says_that_it_goes_on_and_stops_saying_so_when_it_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST_TICK_S", 0.05)
    with Display().stage("fit fusion"):
        deadline = time.monotonic() + 10
        told = ""
        while told.count("so far") < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
            told += capsys.readouterr().out
    lines = (told + capsys.readouterr().out).splitlines()
    assert all(re.fullmatch(r"  fit fusion +\d+\.\d s so far", line) for line in lines[:-1])
    assert len(lines) >= 3
    assert re.fullmatch(r"  fit fusion +\d+\.\d s", lines[-1])
    time.sleep(0.2)
    assert capsys.readouterr().out == ""


def test_a_stage_that_fails_says_nothing_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST_TICK_S", 0.05)
    with pytest.raises(ValueError, match="bad"), Display().stage("fit fusion"):
        raise ValueError("bad")
    time.sleep(0.2)
    assert capsys.readouterr().out == ""


def test_a_stage_in_a_pipe_tells_its_rows_and_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST_TICK_S", 0.2)
    with Display().stage("embed text", 1_000) as (view, _):
        for _ in range(4):
            view.advance(100)
            time.sleep(0.08)
        time.sleep(0.2)
    line, *_ = (line for line in capsys.readouterr().out.splitlines() if "so far" in line)
    assert re.fullmatch(r"  embed text +\d\.\d s so far, \d00 of 1,000 rows, about \d+ s left", line)


@pytest.mark.parametrize("total", [None, 1_000_000])
def test_a_bar_fits_a_terminal_of_80_columns_with_its_numbers_whole(total: int | None) -> None:
    out = io.StringIO()
    display = Display()
    display._console = Console(file=out, force_terminal=True, width=80, highlight=False, color_system=None)
    with display.stage("embed coordinates", total) as (view, _):
        for rows in (299_999, 300_000, 400_000):
            view.advance(rows)
            time.sleep(0.3)
    frames = re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", out.getvalue())
    assert any("embed coordinates" in frame for frame in frames)
    assert max(map(len, frames)) <= 80
    if total:
        assert any("999999/1000000" in frame for frame in frames)
        assert any("rows/s, 0 s left" in frame for frame in frames)


names = st.text("abcdefgh_", min_size=1, max_size=12)


@given(st.lists(st.tuples(names, st.integers(0, 10**12), st.text("xyz ,", max_size=300)), min_size=1, max_size=5))
def test_a_table_is_not_broken_in_a_pipe(rows: list[tuple[str, int, str]]) -> None:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        show._table("", ["name", "rows", "gates"], [[name, f"{count:,}", text] for name, count, text in rows])
    assert len([line for line in out.getvalue().splitlines() if line.strip()]) == 1 + len(rows)


def test_a_list_of_releases_breaks_no_number_on_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    failed = ["collision_rate", "events_without_sid", "drifted_items"]
    moment = "2026-11-27T00:00:00"
    one = ReleaseStatus(
        id="r-000012",
        kind="bootstrap",
        parent="r-000011",
        created_at=moment,
        items=12_345_678,
        codebook="979e75d7bb5f71fc",
        codebook_sizes=[8192, 8192, 8192],
        vocabulary="",
        as_of=moment,
        cutoff=moment,
        versions={},
        encoders={},
        fusion="",
        assignments=[],
        trie=TrieRef(sha256="", path="", sids=12_345_678),
        counts={},
        metrics={},
        gates=tuple(Gate(name=name, severity="block", value=1.0, limit=0.0, passed=False) for name in failed),
    )
    show.releases([ListedRelease(one, None, [])], None, 0, False)
    words = out.getvalue().split()
    assert {"r-000012", "r-000011", "12,345,678", "8192", "979e75d7", "2026-11-27"} <= set(words)
    assert max(map(len, out.getvalue().splitlines())) <= 80


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(names, values, min_size=1, max_size=4))
def test_a_record_is_shown_without_the_signs_of_a_programming_language(value: dict[str, Any]) -> None:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        show.record(value, False)
    assert not re.search(r"[{}\[\]'\"]|\bNone\b|\bTrue\b|\bFalse\b", out.getvalue())


STARTED = """
import sys
from flows.cli.main import run_command

code = run_command(sys.argv[1:])
from prefect.settings import get_current_settings
print("heartbeats:", get_current_settings().flows.heartbeat_frequency or "off")
sys.exit(code)
"""


def test_a_start_that_takes_seconds_is_announced_by_name(tmp_path: Path) -> None:
    """Libraries, the server of Prefect and a cluster of Ray. No key has 40 letters, and nothing is said in Python."""
    rows = [{"item_id": f"i{number}", "title": f"mug {number}", "kind": f"k{number % 3}"} for number in range(12)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "log.csv").write_text("user_id,item_id,event_time\nu0,i1,2024-01-01\n")
    sections: dict[str, dict[str, object]] = {
        "attributes": {"fields": ["kind"], "dim": 8},
        "fusion": {"method": "concat", "dim": 8},
        "codebook": {"levels": [{"codes": 8}, {"codes": 8}, {"codes": 8}]},
        "compute": {"in_process_below": 0},
    }
    write_recipe(tmp_path / "r.toml", sections)
    run = [sys.executable, "-c", STARTED, "run", "bootstrap", "--recipe", str(tmp_path / "r.toml"), "--lake"]
    inputs = ["--items", str(tmp_path / "items.jsonl"), "--interactions", str(tmp_path / "log.csv")]
    without = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_API", "RAY_ADDRESS"))}
    done = subprocess.run([*run, str(tmp_path / "lake"), *inputs], capture_output=True, text=True, env=without)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    for word in ("loading the libraries", "starting a Prefect server", "Ray", "heartbeats: off"):
        assert word in told
    assert not re.search(r"\b[0-9a-f]{40}", told)
    assert not re.search(r"\bNone\b|\bTrue\b|\bFalse\b|\{'", told)


def test_no_server_is_announced_where_one_is_configured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        assert ensure_server() == "http://127.0.0.1:1/api"
    assert capsys.readouterr().err == ""


def test_the_stages_of_a_run_are_artifacts_of_its_flow_run(
    tmp_path: Path, small: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_artifact, "EVERY_S", 0.0)
    bootstrap(str(tmp_path / "lake"), recipe, [str(small / "items.jsonl")], [str(small / "log.csv")])
    (record,) = runs(Lake(str(tmp_path / "lake")))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(type=ArtifactFilterType(any_=["progress"])),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(record.flow_run)])),
        )
    shown = {each.key: (each.data, each.description) for each in found}
    assert shown["progress-fit-fusion"] == (100.0, "fit fusion: done")
    assert shown["progress-embed-text"] == (100.0, "embed text: done")


def test_a_server_that_cannot_be_reached_ends_no_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_artifact, "EVERY_S", 0.0)
    told: list[str] = []
    artifact = StageArtifact("embed text", told.append)
    artifact._wanted = True

    def unreachable(*_: object) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(stage_artifact, "create_progress_artifact", unreachable)
    for done in (0.1, 0.5):
        artifact.update(done, 3.0, "rows")
    artifact.end()
    assert told == ["  warning: the progress of embed text is not shown in Prefect: connection refused"]
