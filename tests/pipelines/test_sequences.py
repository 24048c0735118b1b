"""Sequences of a release: the visible log joined with SIDs, against a plain loop, whatever the order of delivery."""

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_rows import START, WHO, Row, deliver, event, order

from pipelines import sequences
from pipelines.event_log import user_buckets as spreading
from pipelines.event_log.user_buckets import TrainedSlice, bucket_count, user_buckets
from pipelines.event_log.visible_log import LogSlice
from pipelines.sequences import SequencesJob, build_sequences, read_bucket, sequence_buckets, targets, users_of_bucket
from pipelines.spec import SequencesSpec
from storage.commit import append
from storage.lake import Lake

ITEMS = [f"i{number}" for number in range(6)]  # i6, i7 have no SID
CODES = np.stack(np.unravel_index(np.arange(6), (3, 2)), axis=1).astype(np.int32)
BUCKETS = 3


def visible(lake: Lake, days: int = 9, minutes: int = 10**6) -> LogSlice:
    version = lake.version("interactions")
    return LogSlice(version, START + timedelta(days=days), START + timedelta(minutes=minutes))


def build(
    lake: Lake, release: str, log: LogSlice, trained_on: TrainedSlice | None = None, deleted: Iterable[str] = ()
) -> Any:
    job = SequencesJob(release, log, pa.array(ITEMS), CODES, BUCKETS, trained_on, set(deleted))
    return build_sequences(lake, job, WHO)


def stored(lake: Lake, release: str) -> list[Row]:
    return [row for bucket in range(BUCKETS) for row in read_bucket(lake, release, bucket).to_pylist()]


USERS = (0, 1, 2, 3, 10)
"""Users of all buckets."""
rows = st.lists(
    st.tuples(st.sampled_from(USERS), st.integers(0, 7), st.integers(0, 30), st.integers(0, 5), st.integers(0, 25)),
    max_size=30,
)


@settings(max_examples=12, deadline=None)
@given(first=rows, late=rows, cutoff=st.integers(1, 31))
def test_each_visible_event_with_a_sid_comes_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, first: list[tuple[int, ...]], late: list[tuple[int, ...]], cutoff: int
) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    # An event id stands for one event, which may be delivered twice.
    known: dict[int, Row] = {}
    deliveries = [[known.setdefault(name, event(*given, name)) for *given, name in each] for each in (first, late)]
    for number, each in enumerate(deliveries):
        deliver(lake, each, f"log:{number}")
    seen = [row for each in deliveries for row in each if row["event_time"] < START + timedelta(minutes=cutoff)]
    if not lake.exists("interactions"):
        return
    counts = build(lake, "r-1", visible(lake, minutes=cutoff), deleted={"i7"})
    good = {row["event_id"]: row for row in seen if row["item_id"] in ITEMS}
    in_order = sorted(good.values(), key=order)
    for bucket in range(BUCKETS):
        found = read_bucket(lake, "r-1", bucket).to_pylist()
        wanted = [row for row in in_order if user_buckets(pa.array([row["user_id"]]), BUCKETS)[0] == bucket]
        assert [row["event_id"] for row in found] == [row["event_id"] for row in wanted]
        assert [row["codes"] for row in found] == [CODES[ITEMS.index(row["item_id"])].tolist() for row in wanted]
        assert all(row["fresh"] for row in found)
    once = {row["event_id"]: row for row in seen}
    deleted = sum(row["item_id"] == "i7" for row in once.values())
    refused = {"item_without_sid": len(once) - len(good) - deleted, "item_deleted": deleted}
    refused["duplicate_event"] = len(seen) - len(once)
    assert counts.by_reason == {reason: count for reason, count in refused.items() if count}
    assert (counts.rows_in, counts.out) == (len(seen), len(good))
    users = Counter(row["user_id"] for row in good.values())
    assert counts.users_with_one_event == sum(events == 1 for events in users.values())


def test_what_a_training_learnt_from_is_not_fresh(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    old_and_new = [event(0, 1, 5, 0, 0), event(0, 2, 15, 0, 1), event(1, 3, 3, 2, 2)]
    at_the_bounds = [event(2, 4, 6, 1, 3), event(3, 5, 10, 1, 4)]
    deliver(lake, [*old_and_new, *at_the_bounds], "log:0")
    counts = build(lake, "r-2", visible(lake), TrainedSlice(visible(lake, days=1, minutes=10), pa.array(ITEMS)))
    # e0 was there in time; e1 happened after the former cutoff, e4 at it; e2 happened before it, and arrived late. e3
    # arrived just in time, so nothing of the third user is new.
    assert counts.rows_in == 4
    fresh = {"e0": False, "e1": True, "e2": True, "e4": True}
    assert {row["event_id"]: row["fresh"] for row in stored(lake, "r-2")} == fresh


def test_what_was_learnt_is_not_fresh_after_its_files_were_joined_with_newer_ones(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    deliver(lake, [event(user, user, 1, 0, user) for user in USERS[:4]], "log:0")
    learnt = TrainedSlice(visible(lake), pa.array(ITEMS))
    deliver(lake, [event(user, 4, 2, 0, 20 + user) for user in USERS[:4]], "log:1")
    lake.open("interactions").optimize.compact()
    build(lake, "r-1", visible(lake), learnt)
    found = {row["event_id"]: row["fresh"] for row in stored(lake, "r-1")}
    assert found == {f"e{user + new}": bool(new) for user in USERS[:4] for new in (0, 20)}


def test_the_bucket_of_a_user_stays_because_stored_sequences_are_completed_by_it() -> None:
    users = pa.array([f"u{number}" for number in range(6)])
    assert user_buckets(users, 512).tolist() == [50, 235, 259, 420, 282, 408]
    assert set(user_buckets(pa.array([f"u{user}" for user in USERS]), BUCKETS)) == set(range(BUCKETS))


@settings(max_examples=12, deadline=None)
@given(
    first=rows,
    late=rows,
    days=st.integers(0, 5),
    cutoff=st.integers(1, 31),
    compacted=st.booleans(),
    had_sid=st.sets(st.sampled_from([*ITEMS, "i7"])),
)
def test_fresh_is_what_the_former_training_had_no_event_or_no_sid_for_whenever_it_is_said_to_have_arrived(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[tuple[int, ...]],
    late: list[tuple[int, ...]],
    days: int,
    cutoff: int,
    compacted: bool,
    had_sid: set[str],
) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    # An event may be delivered again, as of another day.
    known: dict[int, tuple[int, ...]] = {}
    deliveries = [
        [event(*known.setdefault(name, (user, item, minute)), day, name) for user, item, minute, day, name in each]
        for each in (first, late)
    ]
    deliver(lake, deliveries[0], "log:0")
    trained_on = TrainedSlice(visible(lake, days, cutoff), pa.array(sorted(had_sid), pa.string()))
    deliver(lake, deliveries[1], "log:1")
    if not lake.exists("interactions"):
        return
    if compacted:
        lake.open("interactions").optimize.z_order(["user_id"])
    build(lake, "r-1", visible(lake), trained_on)
    old = {
        row["event_id"]
        for row in deliveries[0]
        if row["arrival_time"] <= trained_on.log.as_of
        and row["event_time"] < trained_on.log.cutoff
        and row["item_id"] in had_sid
    }
    everything = {row["event_id"]: row for each in deliveries for row in each if row["item_id"] in ITEMS}
    found = {row["event_id"]: row["fresh"] for row in stored(lake, "r-1")}
    assert all(fresh == (name not in old) for name, fresh in found.items())
    with_news = {row["user_id"] for name, row in everything.items() if name not in old}
    assert found.keys() >= {name for name, row in everything.items() if row["user_id"] in with_news}


def test_a_build_that_died_is_completed_and_a_second_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, whole = Lake(str(tmp_path / "a")), Lake(str(tmp_path / "b"))
    log = [event(user, at % 8, at, 0, 10 * user + at) for user in range(6) for at in range(7)]
    for each in (lake, whole):
        deliver(each, log, "log:0")
    build(whole, "r-1", visible(whole))
    done = 0

    def dying(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done == 2:
            raise KeyboardInterrupt
        return append(*arguments)

    monkeypatch.setattr(sequences, "append", dying)
    with pytest.raises(KeyboardInterrupt):
        build(lake, "r-1", visible(lake))
    build(lake, "r-1", visible(lake))
    assert stored(lake, "r-1") == stored(whole, "r-1")
    version = lake.version("sequences")
    again = build(lake, "r-1", visible(lake))
    assert (again.out, again.unchanged, lake.version("sequences")) == (0, len(stored(lake, "r-1")), version)


def test_compaction_of_the_table_changes_no_bucket(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    deliver(lake, [event(user, at % 6, 9 - at, 0, 10 * user + at) for user in range(9) for at in range(9)], "log:0")
    build(lake, "r-1", visible(lake))
    before = stored(lake, "r-1")
    lake.open("sequences").optimize.z_order(["event_id"])
    assert stored(lake, "r-1") == before


def test_an_empty_log_has_no_sequences(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    counts = build(lake, "r-1", LogSlice(-1, START, START))
    assert (counts.rows_in, counts.out, counts.unchanged) == (0, 0, 0)
    assert stored(lake, "r-1") == []


def test_a_training_predicts_the_positive_events_of_its_release_or_the_fresh_ones_of_them(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    kinds = [(kind, shown) for kind in ("click", "buy", "hide", "skip") for shown in (None, False, False, True)]
    log = [
        event(at % 5, at % 6, at, 0, at) | {"event_type": kind, "impression": shown}
        for at, (kind, shown) in enumerate(kinds * 3)
    ]
    deliver(lake, log, "log:0")
    build(lake, "r-1", visible(lake, minutes=20))
    build(lake, "r-2", visible(lake), TrainedSlice(visible(lake, minutes=20), pa.array(ITEMS)))
    for release in ("r-1", "r-2"):
        rows = stored(lake, release)
        taken = [row for row in rows if row["event_type"] not in ("hide", "skip") and not row["impression"]]
        assert targets(lake, release, {"skip", "hide"}, fresh_only=False) == len(taken)
        assert targets(lake, release, {"skip", "hide"}, fresh_only=True) == sum(row["fresh"] for row in taken)
        for bucket in range(BUCKETS):
            events = Counter(row["user_id"] for row in rows if row["bucket"] == bucket)
            assert sorted(users_of_bucket(lake, release, bucket)) == sorted(events.values())


def test_there_are_as_many_buckets_as_the_recipe_says_or_else_as_fit_in_memory_and_at_least_eight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path))
    deliver(lake, [event(user, 0, 0, 0, user) for user in range(21)], "log:0")
    assert bucket_count(lake, visible(lake)) == bucket_count(lake, LogSlice(-1, START, START)) == 1
    assert sequence_buckets(lake, visible(lake), SequencesSpec(buckets=3)) == 3
    assert sequence_buckets(lake, visible(lake), SequencesSpec()) == 8
    monkeypatch.setattr(spreading, "BUCKET_EVENTS", 2)
    assert sequence_buckets(lake, visible(lake), SequencesSpec()) == 11
    monkeypatch.setattr(spreading, "MAX_BUCKETS", 10)
    assert sequence_buckets(lake, visible(lake), SequencesSpec()) == 10
