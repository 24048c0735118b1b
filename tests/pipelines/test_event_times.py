"""Event times by rank: those of sorting them all, from few files of a log in order of time."""

import math
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from log_rows import START, deliver, event

from pipelines.event_log.event_times import EventTimes
from storage.files.data_files import DataFile
from storage.lake import Lake

MINUTES = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3)), max_size=8)
MICROSECOND = timedelta(microseconds=1)


@settings(max_examples=40, deadline=None)
@given(deliveries=st.lists(MINUTES, max_size=4), day=st.integers(0, 3), others=st.booleans())
def test_times_by_rank_are_those_of_sorting_what_had_arrived(
    tmp_path_factory: pytest.TempPathFactory, deliveries: list[list[tuple[int, int]]], day: int, others: bool
) -> None:
    """Files overlap, hold what arrived later too, and may be of another writer, which cuts its bounds."""
    lake, number, seen = Lake(str(tmp_path_factory.mktemp("lake"))), 0, []
    as_of = START + timedelta(days=day)
    for place, minutes in enumerate(deliveries):
        rows = []
        for minute, arrival in minutes:
            row = event(0, 0, minute, arrival, number)
            row["event_time"] += MICROSECOND
            rows.append(row)
            seen += [row["event_time"]] if row["arrival_time"] <= as_of else []
            number += 1
        deliver(lake, rows, f"{place}")
    if others and lake.exists("interactions"):
        write_deltalake(lake.path("interactions"), lake.read("interactions"), mode="append")
        seen *= 2
    times = EventTimes(lake, lake.version("interactions"), as_of)
    assert len(times) == len(seen)
    assert [times[place] for place in range(len(times))] == sorted(seen)


@settings(deadline=None)
@given(count=st.integers(1, 10_000), share=st.floats(0.0001, 0.9999))
def test_the_rank_of_a_share_is_that_of_the_quantile(count: int, share: float) -> None:
    assert pl.int_range(count, eager=True).quantile(1 - share, "higher") == math.ceil((count - 1) * (1 - share))


def test_of_a_log_in_order_of_time_the_times_of_few_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, read = Lake(str(tmp_path)), []
    for delivery in range(20):
        first = 10 * delivery
        deliver(lake, [event(0, 0, minute, 1, minute) for minute in range(first, first + 11)], f"{delivery}")
    plain = Lake.read_files

    def counted(self: Lake, table: str, files: list[DataFile], columns: list[str]) -> object:
        read.append(len(files))
        return plain(self, table, files, columns)

    monkeypatch.setattr(Lake, "read_files", counted)
    times = EventTimes(lake, lake.version("interactions"), START + timedelta(days=2))
    assert times[115] == START + timedelta(minutes=105)
    assert sum(read) <= 3
