"""The share of a log's events whose item has a SID: exact for a small log, of a few files for a long one."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from log_rows import START, deliver, event

from pipelines.event_log import coverage
from pipelines.event_log.coverage import log_coverage
from pipelines.event_log.visible_log import LogSlice
from storage.files.data_files import DataFile
from storage.lake import Lake
from tokenizer.trie.trie import Trie

FILES, EVENTS = 60, 20


def a_log(folder: Path) -> tuple[Lake, list[dict[str, Any]]]:
    """Deliveries of the same size, each a file, with events on ten items."""
    lake, draw, rows = Lake(str(folder)), np.random.default_rng(0), []
    for delivery in range(FILES):
        first = EVENTS * delivery
        part = [
            event(0, int(draw.integers(10)), number, delivery // 24, number) for number in range(first, first + EVENTS)
        ]
        deliver(lake, part, f"{delivery}")
        rows += part
    return lake, rows


def a_trie(items: int) -> Trie:
    return Trie.build(np.arange(items, dtype=np.int32)[:, None], [f"i{item}" for item in range(items)], (10,))


def test_of_a_small_log_all_visible_events_before_the_cutoff_are_counted(tmp_path: Path) -> None:
    lake, rows = a_log(tmp_path)
    for as_of, minutes in ((START, 100), (START + timedelta(days=1), 500), (START + timedelta(days=9), 5_000)):
        log = LogSlice(lake.version("interactions"), as_of, START + timedelta(minutes=minutes))
        seen = [row for row in rows if row["arrival_time"] <= as_of and row["event_time"] < log.cutoff]
        held = [row for row in seen if row["item_id"] < "i7"]
        assert log_coverage(lake, log, a_trie(7)) == pytest.approx(len(held) / len(seen))
    assert log_coverage(lake, LogSlice(log.version, log.as_of, START), a_trie(7)) is None
    assert log_coverage(lake, LogSlice(-1, log.as_of, log.cutoff), a_trie(7)) is None


def test_of_a_long_log_a_few_files_are_read_and_the_share_is_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, rows = a_log(tmp_path)
    log, read, plain = LogSlice(lake.version("interactions"), datetime.now(UTC), datetime.now(UTC)), [], Lake.read_files

    def counted(self: Lake, table: str, files: list[DataFile], columns: list[str]) -> object:
        read.append((len(files), list(columns)))
        return plain(self, table, files, columns)

    monkeypatch.setattr(Lake, "read_files", counted)
    monkeypatch.setattr(coverage, "ALL", FILES * EVENTS - 1)
    share = log_coverage(lake, log, a_trie(7))
    assert read == [(1, ["item_id"])] * coverage.PLACES, "all events are seen, which the bounds of the files tell"
    read.clear()
    some = LogSlice(log.version, START, START + timedelta(minutes=30))
    assert log_coverage(lake, some, a_trie(10)) == 1
    assert {name for _, columns in read for name in columns} == {"item_id", "event_time"}
    monkeypatch.setattr(coverage, "ALL", FILES)  # of a place, every third event
    assert log_coverage(lake, log, a_trie(10)) == 1
    assert log_coverage(lake, log, a_trie(7)) == pytest.approx(0.7, abs=0.25)
    monkeypatch.setattr(coverage, "ALL", FILES * EVENTS - 1)
    monkeypatch.setattr(coverage, "PLACES", FILES)  # each file has a place, so all are counted
    exact = sum(row["item_id"] < "i7" for row in rows) / len(rows)
    assert log_coverage(lake, log, a_trie(7)) == pytest.approx(exact)
    assert share == pytest.approx(exact, abs=0.1)
