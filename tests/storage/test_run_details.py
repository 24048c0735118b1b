"""Details of runs: what is stored is read as records, and written as it was read."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from storage.lake import Lake
from storage.runs.beats import beat_of, beats, record_beat
from storage.runs.details import RecordedStage, RunResult
from storage.runs.record import RunRecord, read_run

names = st.sampled_from(["release", "model", "error", "made", "seconds", "rows_in", "by_reason", "others", "history"])
details = st.dictionaries(names, st.none() | st.booleans() | st.integers() | st.text("ab") | st.lists(st.floats(0, 1)))


@given(details)
def test_a_detail_is_written_as_it_was_read_with_fields_that_are_missing_null_or_of_a_later_version(
    detail: dict[str, Any],
) -> None:
    stored = json.loads(json.dumps(detail, sort_keys=True))
    assert json.dumps(RunResult.of(stored).as_record()) == json.dumps(stored)
    assert json.dumps(RecordedStage.of("embed", stored).as_record()) == json.dumps({"name": "embed", **stored})


def test_a_recorded_run_is_read_by_name(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    record = RunRecord(lake, "night-1", "nightly", "", {"items": ["a"]})
    record.begin()
    counts = {"rows_in": 3, "rows_out": 1, "unchanged": 1, "quarantined": 1, "by_reason": {"empty_title": 1}}
    record.stage("embed", {**counts, "where": "in process", "seconds": 0.5})
    record.stage("train", {"diverged_on": ["e1"]})
    assert read_run(lake, "night-1").result == RunResult()
    record.end("finished", {"release": "r-000001", "model": None, "made": True, "fitted": "r-000001"})
    found = read_run(lake, "night-1")
    embed, train = found.stages
    assert (embed.seconds, embed.rows_in, embed.rows_out, embed.unchanged, embed.quarantined) == (0.5, 3, 1, 1, 1)
    assert (embed.by_reason, embed.others) == ({"empty_title": 1}, {"where": "in process"})
    assert train == RecordedStage("train", others={"diverged_on": ["e1"]})
    assert (found.result.release, found.result.model, found.result.published) == ("r-000001", None, None)
    assert found.as_record()["result"] == {"fitted": "r-000001", "made": True, "model": None, "release": "r-000001"}
    assert found.as_record()["stages"][1] == {"name": "train", "diverged_on": ["e1"]}


def test_a_sign_of_life_has_the_result_of_its_run(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    beat = beat_of("gc", "gc-1", 1.23456, "finished", RunResult(read_bytes=7, others={"retired": ["r-000001"]}))
    record_beat(lake, beat)
    assert beats(lake) == {"gc": beat}
    assert beat.at <= datetime.now(UTC)
    (path,) = tmp_path.glob("beats/*.json")
    assert json.loads(path.read_text())["result"] == {"read_bytes": 7, "retired": ["r-000001"]}
