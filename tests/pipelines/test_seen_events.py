"""Events that were written are found again, whether their ids are their own or hashes of the content."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingest import hash_set
from pipelines.ingest.events.seen_events import SeenEvents, event_keys
from pipelines.ingest.hash_set import FileRun

START = datetime(1, 1, 1, tzinfo=UTC)
EVENT = st.tuples(st.sampled_from("abcdef"), st.sampled_from([0, 3_600, 10**9, 6 * 10**10, 25 * 10**10]))
PARTS = st.lists(st.tuples(st.booleans(), st.lists(EVENT, max_size=6)), max_size=6)


def frame(events: list[tuple[str, int]], own_ids: bool) -> pl.DataFrame:
    """Return events; an id that is a hash of the content differs with the time."""
    ids = [name if own_ids else f"{name} at {second}" for name, second in events]
    times = [START + timedelta(seconds=second) for _, second in events]
    kind = pl.Datetime("us", "UTC")
    return pl.DataFrame({"event_id": pl.Series(ids, dtype=pl.String), "event_time": pl.Series(times, dtype=kind)})


@settings(deadline=None)
@given(parts=PARTS)
def test_what_was_added_is_found_by_its_id(parts: list[tuple[bool, list[tuple[str, int]]]]) -> None:
    added: list[pl.Series] = []
    seen, ids = SeenEvents(lambda: added), set[str]()
    for own_ids, events in parts:
        part = frame(events, own_ids)
        found = seen.has(part, own_ids).tolist()
        assert found == [each in ids for each in part["event_id"]]  # no key of so few is that of another
        keys = np.sort(event_keys(part, own_ids))
        assert seen.may_have(keys, own_ids) >= any(found), "another kind of keys may have anything"
        seen.add(part, own_ids)
        added.append(part["event_id"])
        ids.update(part["event_id"])


def test_events_in_order_of_time_are_looked_for_in_the_blocks_of_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a long log would else read the keys of all parts before it."""
    monkeypatch.setattr(hash_set, "BLOCK", 64)
    monkeypatch.setattr(hash_set, "IN_MEMORY", 64)
    looked, block = list[int](), FileRun.block
    monkeypatch.setattr(FileRun, "block", lambda self, number: looked.append(number) or block(self, number))
    for own_ids, most in ((False, 3), (True, 1_000)):
        seen = SeenEvents(list)
        log = [
            frame([(f"e{row}", 10 * row) for row in range(start, start + 32)], own_ids) for start in range(0, 4096, 32)
        ]
        for part in log:
            seen.add(part, own_ids)
        looked.clear()
        assert seen.has(log[64], own_ids).all()
        assert len(looked) <= most
        assert own_ids == (len(looked) > 10)
