"""What a run prints: every stage moves, no line is broken in a pipe, no number is broken on a narrow terminal."""

import io
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flows.cli import show
from flows.runtime import progress
from flows.runtime.progress import Display
from flows.runtime.server import ensure_server


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


@pytest.mark.parametrize("total", [None, 1_000_000])
def test_a_bar_fits_a_terminal_of_80_columns_with_its_numbers_whole(total: int | None) -> None:
    out = io.StringIO()
    display = Display()
    display._console = Console(file=out, force_terminal=True, width=80, highlight=False, color_system=None)
    with display.stage("embed coordinates", total) as (view, _):
        for rows in (499_999, 500_000):
            view.advance(rows)
            time.sleep(0.3)
    frames = re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", out.getvalue())
    assert any("embed coordinates" in frame for frame in frames)
    assert max(map(len, frames)) <= 80
    if total:
        assert any("999999/1000000" in frame for frame in frames)
        assert any("rows/s" in frame for frame in frames)


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
    one: dict[str, Any] = {
        "id": "r-000012",
        "kind": "bootstrap",
        "parent": "r-000011",
        "items": 12_345_678,
        "codebook_sizes": [8192, 8192, 8192],
        "codebook": "979e75d7bb5f71fc",
        "as_of": "2026-11-27T00:00:00",
        "gates": [{"name": name, "passed": False} for name in failed],
        "pinned": None,
        "redacted": [],
    }
    show.releases([one], None, 0, False)
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


def test_no_server_is_announced_where_one_is_configured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        assert ensure_server() == "http://127.0.0.1:1/api"
    assert capsys.readouterr().err == ""
