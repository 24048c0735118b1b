"""Events are admitted once each, whatever the size of the chunks in which a source is read."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingest import hash_set
from pipelines.ingest.events.admission import SAME, Admission
from pipelines.ingest.events.columns import EVENTS
from pipelines.ingest.events.ingest import write_admitted
from pipelines.ingest.hash_set import FileRun, SeenHashes
from pipelines.ingest.items.ingest import ingest_items
from pipelines.sources.files import find_sources
from pipelines.sources.source_spec import ItemsSpec
from storage.commit import Provenance
from storage.lake import Lake

WHO = Provenance("test", "recipe")
NOW = datetime(2026, 9, 1, tzinfo=UTC)
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


class Slow:
    """The rules, event by event: a dictionary of what is stored, and one of what this source gave."""

    def __init__(self, items: set[str]) -> None:
        self.items, self.table = items, dict[str, dict[str, Any]]()

    def source(self, events: list[dict[str, Any]]) -> list[str]:
        outcomes, own = [], dict[str, dict[str, Any]]()
        for event in events:
            before = self.table.get(event["event_id"])
            if before is not None and any(before[name] != event[name] for name in SAME):
                outcomes.append("conflicting_event")
            elif before is not None and (
                before["source"] != event["source"] or before["source_offset"] == event["source_offset"]
            ):
                outcomes.append("unchanged")
            elif before is not None or event["event_id"] in own:
                outcomes.append("duplicate_event")
            elif event["item_id"] not in self.items:
                outcomes.append("unknown_item")
            else:
                own[event["event_id"]] = event
                outcomes.append("")
        self.table |= own
        return outcomes


EVENT = st.tuples(
    st.sampled_from("abcdef"), st.sampled_from(["u", "v"]), st.sampled_from(["i", "j", "lost"]), st.integers(0, 3)
)


@given(
    sources=st.lists(st.lists(EVENT, min_size=1, max_size=8), min_size=1, max_size=3),
    chunk=st.integers(1, 8),
    certain=st.none() | st.sets(st.sampled_from("ij")),
)
@settings(max_examples=25, deadline=None)
def test_every_event_is_admitted_once_as_the_rules_say(
    sources: list[list[tuple[Any, ...]]], chunk: int, certain: set[str] | None
) -> None:
    """Whichever items are known to be there without a look into the catalogue."""
    has = None if certain is None else lambda ids: ids.is_in(sorted(certain)).to_numpy()
    with TemporaryDirectory() as folder:
        lake = lake_with_items(Path(folder), "i", "j")
        slow = Slow({"i", "j"})
        for number, rows in enumerate(sources):
            events = [event(f"s{number}", offset, *row) for offset, row in enumerate(rows)]
            admission, outcomes = Admission(lake, has), dict[int, str]()
            for start in range(0, len(events), chunk):
                part = pl.DataFrame(
                    events[start : start + chunk], schema={**EVENTS, "source": pl.String()}, orient="row"
                )
                found = write_admitted(lake, admission, admission.recognised(part), WHO)
                outcomes |= dict.fromkeys(found.events["source_offset"], "")
                outcomes |= {row["source_offset"]: reason for row, reason, _ in found.refused}
                assert len(found.events) + len(found.refused) + found.unchanged == len(part)
            expected = slow.source(events)
            assert [outcomes.get(offset, "unchanged") for offset in range(len(events))] == expected
        stored = lake.frame("interactions")
        assert sorted(stored["event_id"]) == sorted(slow.table)


def lake_with_items(folder: Path, *items: str) -> Lake:
    path = folder / "items.csv"
    path.write_text("\n".join(["item_id,title", *(f"{item},mug" for item in items)]) + "\n")
    lake = Lake(str(folder / "lake"))
    ingest_items(lake, find_sources(str(path))[0], ItemsSpec(), NOW, WHO)
    return lake


def event(source: str, offset: int, name: str, user: str, item: str, day: int) -> dict[str, Any]:
    when = FIRST + timedelta(hours=day)
    return {
        **dict.fromkeys(EVENTS),
        "event_id": name,
        "user_id": user,
        "item_id": item,
        "event_type": "view",
        "event_time": when,
        "arrival_time": NOW,
        "source": source,
        "source_offset": offset,
    }


def test_an_id_that_comes_again_in_another_part_of_a_source_is_a_repeat_however_far_apart(tmp_path: Path) -> None:
    lake = lake_with_items(tmp_path, "i")
    admission = Admission(lake)
    for offset, (day, kept) in enumerate([(0, 1), (90 * 24, 0)]):
        part = pl.DataFrame([event("s", offset, "a", "u", "i", day)], schema={**EVENTS, "source": pl.String()})
        found = write_admitted(lake, admission, admission.recognised(part), WHO)
        assert len(found.events) == kept


@given(
    st.lists(st.lists(st.integers(0, 40), max_size=20), max_size=8),
    st.lists(st.integers(0, 40)),
    st.sampled_from([(1 << 19, 1 << 22), (1, 0), (2, 3), (3, 10)]),
)
def test_hashes_that_were_added_are_known_in_memory_and_in_files(
    added: list[list[int]], asked: list[int], sizes: tuple[int, int]
) -> None:
    with patch.multiple(hash_set, BLOCK=sizes[0], IN_MEMORY=sizes[1]):
        seen = SeenHashes()
        for each in added:
            seen.add(np.array(each, np.uint64))
        assert all(len(run) >= 2 * len(after) for run, after in pairwise(seen._runs)), "few runs are searched"
        known = {number for each in added for number in each}
        assert seen.has(np.array(asked, np.uint64)).tolist() == [number in known for number in asked]


def test_many_hashes_are_known_and_memory_holds_few_of_them() -> None:
    draw, seen = np.random.default_rng(0), SeenHashes()
    some = draw.integers(0, 1 << 63, 10 << 20).astype(np.uint64)
    for part in np.array_split(some, 40):
        seen.add(part)
    in_memory = [len(run) for run in seen._runs if not isinstance(run, FileRun)]
    assert sum(map(len, seen._runs)) == len(some)
    assert sum(in_memory) <= 2 * hash_set.IN_MEMORY < len(some)
    assert seen.has(some[::997]).all()
    assert not seen.has(np.arange(1000, dtype=np.uint64) + np.uint64(1 << 63)).any()


def test_a_full_disk_is_an_error_and_not_a_run_with_missing_hashes(tmp_path: Path) -> None:
    """A file may be no larger than a part of the run: what a raw write leaves out would be lost without a word."""
    program = (
        "import resource, signal; import numpy as np; from pipelines.ingest.hash_set import FileRun, BLOCK\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (12 * BLOCK,) * 2)\n"
        "FileRun.of(iter(np.arange(2 * BLOCK, dtype=np.uint64).reshape(2, BLOCK)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "OSError" in done.stderr
