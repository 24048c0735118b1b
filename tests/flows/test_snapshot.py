"""Snapshots: the cutoff that a split gives, times that never go back, and rows that arrived since the parent."""

import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_rows import START, WHO, deliver, event

from flows.recipe import parse_recipe
from flows.runtime.run import Run
from flows.snapshot import (
    Snapshot,
    added_events,
    arrived_since,
    check_as_of,
    release_key,
    say_cutoff,
    take_snapshot,
)
from storage.commit import append
from storage.lake import Lake
from storage.releases.manifest import Manifest
from storage.schemas import ITEMS

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
CLOCK = START + 10 * DAY


def run_of(lake: Lake, holdout: float) -> Run:
    recipe = parse_recipe({"split": {"holdout": holdout}})
    run = Run("nightly", lake.uri, recipe, recipe, {}, CLOCK)
    run.told = []  # type: ignore[attr-defined]
    run.say = run.told.append  # type: ignore[attr-defined,method-assign]
    return run


def told(run: Run) -> list[str]:
    return run.told  # type: ignore[attr-defined,no-any-return]


def release(as_of: datetime, name: str = "r-000001", **versions: int) -> Manifest:
    return Manifest.model_construct(id=name, as_of=as_of, versions=versions)


def items(lake: Lake, key: str, *rows: tuple[str, int, int]) -> None:
    """(id, revision, day of arrival) of each."""
    table = [
        {"item_id": item, "revision": revision, "title": f"{item} {revision}", "attributes": "{}", "text_hash": "h",
         "images": [], "deleted": False, "arrived_at": START + day * DAY, "source": "s", "source_row": place}
        for place, (item, revision, day) in enumerate(rows)
    ]  # fmt: skip
    append(lake, "items", pa.Table.from_pylist(table, schema=ITEMS.schema), key, WHO)


minutes = st.lists(st.integers(0, 12), max_size=12)


@settings(max_examples=20, deadline=None)
@given(seen=minutes, late=minutes, share=st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.99]))
def test_the_cutoff_holds_out_the_newest_share_of_what_had_arrived_and_never_less(
    tmp_path_factory: pytest.TempPathFactory, seen: list[int], late: list[int], share: float
) -> None:
    """Against counting. Equal times lie on one side; events that arrive after the as-of time do not count."""
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    deliver(lake, [event(0, 0, minute, 2, place) for place, minute in enumerate(seen)], "seen")
    deliver(lake, [event(1, 0, minute, 3, 100 + place) for place, minute in enumerate(late)], "late")
    as_of = START + 2 * DAY
    found = take_snapshot(run_of(lake, share), as_of, None)
    assert (found.as_of, found.cutoff_date) == (as_of, None)
    if not seen or not share:
        assert found.cutoff == as_of
        return
    times = sorted(seen)
    assert found.cutoff == START + times[math.ceil((len(times) - 1) * (1 - share) - 1e-9)] * MINUTE
    before = sum(START + minute * MINUTE < found.cutoff for minute in seen)
    assert before <= math.ceil((len(times) - 1) * (1 - share) - 1e-9)


def test_a_cutoff_that_is_asked_for_wins_over_that_of_the_release_and_that_over_the_share(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    deliver(lake, [event(0, 0, minute, 1, minute) for minute in range(10)], "log")
    run, asked, inherited = run_of(lake, 0.5), START + DAY, START + 2 * DAY
    both = take_snapshot(run, None, asked, date=inherited)
    assert (both.cutoff, both.cutoff_date) == (asked, asked)
    old = take_snapshot(run, None, None, date=inherited)
    assert (old.cutoff, old.cutoff_date) == (inherited, inherited)
    share = take_snapshot(run, None, None)
    assert (share.cutoff, share.cutoff_date) == (START + 5 * MINUTE, None)
    for snapshot in (both, old, share):
        say_cutoff(run, snapshot)
    whole = run_of(lake, 0)
    say_cutoff(whole, take_snapshot(whole, None, None))
    assert ["given with --cutoff" in line for line in told(run)] == [True, True, False]
    assert told(run)[2] == (
        "  events from 2026-01-01 00:05:00 UTC on are held out (the newest 50% of them, by split.holdout)"
    )
    assert told(whole) == [
        "  events from 2026-01-11 00:00:00 UTC on are held out (the as-of time, because split.holdout is 0)"
    ]


def test_the_as_of_time_is_what_was_asked_for_else_the_clock_and_never_before_a_release_that_is_extended(
    tmp_path: Path,
) -> None:
    lake = Lake(str(tmp_path))
    run = run_of(lake, 0)
    assert take_snapshot(run, None, None).as_of == CLOCK
    assert take_snapshot(run, CLOCK - DAY, None).as_of == CLOCK - DAY
    assert take_snapshot(run, None, None, release(CLOCK)).as_of == CLOCK
    assert told(run) == []
    later = take_snapshot(run, None, None, release(CLOCK + DAY, "r-000004"), release(CLOCK - DAY, "r-000005"))
    assert later.as_of == later.cutoff == CLOCK + DAY
    assert told(run) == [
        "  warning: the clock says 2026-01-11 00:00:00 UTC, earlier than the as-of time of r-000004, 2026-01-12 "
        "00:00:00 "
        "UTC: the as-of time stays, so that no row drops out of the release"
    ]


def test_an_as_of_time_before_that_of_the_release_that_is_extended_is_refused() -> None:
    parent = release(CLOCK, "r-000007")
    for fine in (None, CLOCK, CLOCK + DAY):
        check_as_of(fine, parent)
    with pytest.raises(ValueError, match=re.escape(f"earlier than the as-of time of r-000007, {CLOCK.isoformat()}:")):
        check_as_of(CLOCK - timedelta(microseconds=1), parent)


def snapshot_of(lake: Lake, as_of: datetime, cutoff: datetime | None = None, date: datetime | None = None) -> Snapshot:
    return Snapshot(lake.ref("items"), lake.ref("interactions"), as_of, cutoff or as_of, date)


deliveries = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=6)


@settings(max_examples=15, deadline=None)
@given(first=deliveries, second=deliveries, parent_day=st.integers(0, 2), day=st.integers(0, 3))
def test_items_that_arrived_since_a_release_are_those_it_did_not_see_in_their_newest_visible_revision(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[tuple[int, int]],
    second: list[tuple[int, int]],
    parent_day: int,
    day: int,
) -> None:
    """Also what was delivered before the release and is said to have arrived after it."""
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    rows = [(f"i{item}", place, arrived) for place, (item, arrived) in enumerate([*first, *second])]
    items(lake, "none", ("other", 0, 0))
    if first:
        items(lake, "first", *rows[: len(first)])
    parent = release(START + parent_day * DAY, items=lake.version("items"))
    if second:
        items(lake, "second", *rows[len(first) :])
    found = arrived_since(lake, parent, snapshot_of(lake, START + max(day, parent_day) * DAY))
    visible = [row for row in rows if row[2] <= max(day, parent_day)]
    since = {item for item, place, arrived in visible if arrived > parent_day or place >= len(first)}
    newest = {item: revision for item, revision, _ in visible if item in since}
    assert dict(found.select("item_id", "revision").rows()) == newest


@settings(max_examples=15, deadline=None)
@given(first=deliveries, second=deliveries, parent_day=st.integers(0, 2), day=st.integers(0, 3))
def test_events_that_were_added_since_a_release_come_once_wherever_their_times_lie(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[tuple[int, int]],
    second: list[tuple[int, int]],
    parent_day: int,
    day: int,
) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    made = [event(0, 0, minute, arrived, place) for place, (minute, arrived) in enumerate([*first, *second])]
    deliver(lake, [event(0, 0, 0, 0, 999)], "none")
    deliver(lake, made[: len(first)], "first")
    parent = release(START + parent_day * DAY, interactions=lake.version("interactions"))
    deliver(lake, made[len(first) :], "second")
    as_of = START + max(day, parent_day) * DAY
    found = added_events(lake, parent, snapshot_of(lake, as_of, START), ["event_id", "event_time"])
    assert found.columns == ["event_id", "event_time"]
    wanted = [
        row["event_id"]
        for place, row in enumerate(made)
        if row["arrival_time"] <= as_of and (row["arrival_time"] > parent.as_of or place >= len(first))
    ]
    assert sorted(found["event_id"]) == sorted(wanted)


def test_content_counts_what_can_be_seen_to_the_bounds(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    items(lake, "items", ("i0", 0, 1), ("i1", 0, 2), ("i2", 0, 3))
    deliver(lake, [event(0, 0, minute, day, 10 * day + minute) for day in (1, 2, 3) for minute in (4, 5, 6)], "log")
    as_of, cutoff = START + 2 * DAY, START + 5 * MINUTE
    content = snapshot_of(lake, as_of, cutoff, cutoff).content(lake)
    assert content == {
        "versions": {"items": lake.version("items"), "interactions": lake.version("interactions")},
        "items": 2,
        "events": 6,
        "events_before_cutoff": 2,
        "cutoff_date": cutoff.isoformat(),
    }
    assert snapshot_of(lake, as_of, cutoff).content(lake)["cutoff_date"] is None
    assert snapshot_of(lake, as_of).catalogue(lake)["item_id"].to_list() == ["i0", "i1"]


def changed(name: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda asked: {**asked, name: value}


@pytest.mark.parametrize(
    "change",
    [
        changed("kind", "backfill"),
        changed("parent", "r-000002"),
        changed("content", {"items": 2, "events": 1}),
        changed("recipe_hash", "other"),
        changed("extra_key_fields", {"budget": 0.2, "kept": False}),
    ],
)
def test_a_key_is_the_same_for_the_same_and_another_for_anything_else(change: Callable[..., dict[str, Any]]) -> None:
    asked: dict[str, Any] = {
        "kind": "nightly",
        "parent": "r-000001",
        "content": {"items": 1, "events": 1},
        "recipe_hash": "r",
        "extra_key_fields": {"budget": 0.1, "kept": False},
    }
    turned = {**asked, "content": {"events": 1, "items": 1}}
    assert release_key(**asked) == release_key(**turned), "names have no order"
    assert release_key(**change(asked)) != release_key(**asked)


def test_keys_that_stand_in_lakes_stay_what_they_are() -> None:
    """Another key for the same would make a release again that is there."""
    key = release_key("nightly", "r-000001", {"items": 1}, "recipe", {"budget": 0.1})
    assert key == "nightly:10a03df9441a8568"
