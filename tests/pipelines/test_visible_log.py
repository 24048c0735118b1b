"""Slices of a log that a run may see: their bounds and their identity."""

from datetime import datetime, timedelta
from pathlib import Path

from log_rows import START, deliver, event
from made_releases import CUTOFF, TIME, candidate

from pipelines.event_log.visible_log import LogSlice
from storage.lake import Lake

AS_OF, BEFORE = START + timedelta(days=2), START + timedelta(minutes=5)
MOMENT = timedelta(microseconds=1)


def test_a_slice_holds_what_arrived_by_its_as_of_time_and_happened_before_its_cutoff(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))

    def at(name: int, arrived: datetime, happened: datetime) -> dict[str, object]:
        return event(0, 0, 0, 0, name) | {"arrival_time": arrived, "event_time": happened}

    rows = [
        at(0, AS_OF, BEFORE - MOMENT),
        at(1, AS_OF + MOMENT, BEFORE - MOMENT),
        at(2, AS_OF, BEFORE),
        at(3, AS_OF + MOMENT, BEFORE),
    ]
    deliver(lake, rows, "log:0")
    log = LogSlice(lake.version("interactions"), AS_OF, BEFORE)
    assert log.read(lake, ["event_id"])["event_id"].to_list() == ["e0"]


def test_the_slice_of_a_release_is_that_of_its_manifest(tmp_path: Path) -> None:
    made = candidate(Lake(str(tmp_path)), "key", ["a"], versions={"interactions": 7})
    assert LogSlice.of(made) == LogSlice(7, TIME, CUTOFF)


def test_the_name_of_a_slice_stays_because_stored_vectors_are_found_by_it() -> None:
    found = LogSlice(7, TIME, CUTOFF).content_hash
    assert found == "interactions@7/as-of/2024-01-01T00:00:00+00:00/before/2024-01-03T00:00:00+00:00"
