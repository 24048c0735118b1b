"""The GPU table is made of rows that were measured; a section that fails ends alone and is named."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import gpu
from bench.__main__ import main
from bench.gpu import SECTIONS
from bench.gpu.run import TIME_LIMIT_S, time_limit


def test_a_table_has_the_machine_the_rows_and_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.gpu.run.SECTIONS", {**gpu.SECTIONS, "nowhere": 30})
    monkeypatch.setattr("bench.__main__.SECTIONS", {**gpu.SECTIONS, "nowhere": 30})
    table = tmp_path / "gpu.json"
    assert main(["gpu", "--quick", "--only", "limits", "nowhere", "--json", str(table)]) == 1
    made = json.loads(table.read_text())
    assert list(made["failed"]) == ["nowhere"]
    assert made["machine"]["cpus"] > 0
    assert {row["section"] for row in made["rows"]} == {"limits"}
    assert all(row["value"] > 0 for row in made["rows"])
    out, error = capsys.readouterr()
    assert all(row["name"] in out for row in made["rows"])
    assert "1 of 2 sections failed: nowhere" in error


@pytest.mark.parametrize("section", ["masks", "decoding", "codebooks"])
def test_the_code_of_a_section_runs_on_a_cpu_with_small_sizes(section: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    assert main(["gpu", "--quick", "--only", section, "--rows", str(rows)]) == 0
    made = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(made) > 5
    assert {row["section"] for row in made} == {section}


def test_without_a_card_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["gpu"]) == 1
    assert "no CUDA device" in capsys.readouterr().err


@given(st.lists(st.floats(0, 1.0), min_size=len(SECTIONS), max_size=len(SECTIONS)))
def test_no_section_is_left_without_time_and_all_end_in_the_time_of_the_script(taken: list[float]) -> None:
    left = float(TIME_LIMIT_S)
    for place, share in enumerate(taken):
        limit = time_limit(list(SECTIONS)[place:], left)
        assert limit >= 30
        left -= share * limit
    assert left >= -1e-6
