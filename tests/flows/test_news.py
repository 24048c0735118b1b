"""Runs for news: whatever changes while runs come and go, one begins after the newest change, and none without one."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from flows.watch.news import REPEAT, News, Trigger, news
from pipelines.ingest.accounting import record_source, records, unread
from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.registry import source_kind_of
from pipelines.sources.protocol import Spec
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from storage.commit import Provenance
from storage.lake import Lake
from storage.runs.beats import Beat
from storage.runs.details import RunResult

NOW = datetime(2026, 9, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
STEP = st.sampled_from(["nothing", "nothing", "change", "run ends", "request is lost"])


@given(steps=st.lists(STEP, max_size=60), length=st.integers(1, 5))
def test_a_run_begins_after_each_change_and_none_without(steps: Sequence[str], length: int) -> None:
    """A look a minute; a run takes some minutes, and one that is asked for while another runs is dropped."""
    asked = list[bool]()
    trigger = Trigger(lambda: asked.append(True))
    state, beat, running = 0, None, None
    changed_at, begun = NOW, list[datetime]()
    quiet = ["nothing"] * (2 * length + 3 + int(REPEAT / MINUTE))
    for minute, step in enumerate([*steps, *quiet]):
        now = NOW + minute * MINUTE
        if step == "change":
            state, changed_at = state + 1, now
        if running is not None and now - running >= length * MINUTE:
            beat = Beat("nightly", "n", now, (now - running).total_seconds(), "finished", RunResult())
            running = None
        before = len(asked)
        assert trigger.look(str(state), beat, now) == (len(asked) > before)
        if len(asked) > before and running is None and step != "request is lost":
            running = now
            begun.append(now)
    assert any(start > changed_at for start in begun), "a run began after the newest change"
    changes = 1 + sum(step == "change" for step in steps)
    lost = sum(step == "request is lost" for step in steps)
    assert len(begun) <= changes + lost, "each change is the reason of one run at most"


def ended(minute: int, began: int) -> Beat:
    return Beat("nightly", "n", NOW + minute * MINUTE, (minute - began) * 60.0, "finished", RunResult())


def test_a_run_is_asked_for_again_if_one_that_began_too_early_has_ended_or_none_came() -> None:
    wait = int(REPEAT / MINUTE)
    for beat, minute, again in (
        (None, 2, False),
        (None, 1 + wait, False),
        (None, 2 + wait, True),
        (ended(1, began=-3), 2, False),  # it ended before the request, or with it
        (ended(2, began=-3), 2, True),
        (ended(2, began=0), 2, True),  # it began with the change, and may not have seen it
        (ended(2, began=1), 2, False),
    ):
        trigger = Trigger(lambda: None)
        assert not trigger.look("changed", None, NOW)
        assert trigger.look("changed", None, NOW + MINUTE)
        assert trigger.look("changed", beat, NOW + minute * MINUTE) == again, (beat, minute)
        assert trigger.unanswered == (minute > 1 + wait)


def test_a_run_that_does_not_come_is_a_problem_until_one_ends() -> None:
    trigger, repeat = Trigger(lambda: None), int(REPEAT / MINUTE)
    found = []
    for minute in range(3 * repeat):
        beat = ended(2 * repeat, began=2 * repeat - 1) if minute >= 2 * repeat else None
        trigger.look("changed", beat, NOW + minute * MINUTE)
        found.append(trigger.unanswered)
    assert found == [False] * (repeat + 2) + [True] * (repeat - 2) + [False] * repeat


def test_what_something_else_asks_for_first_is_asked_for_later() -> None:
    asked = list[bool]()
    trigger = Trigger(lambda: asked.append(True), later=True)
    for minute in range(int(REPEAT / MINUTE) + 1):
        assert not trigger.look("r-1", None, NOW + minute * MINUTE)
    assert trigger.look("r-1", None, NOW + REPEAT + MINUTE)
    assert asked == [True]


def look(lake: Lake, *addresses: Path | str) -> News:
    wanted: dict[str, tuple[Sequence[str], Spec]] = {
        "items": ([], ItemsSpec()),
        "interactions": ([str(each) for each in addresses], InteractionsSpec()),
    }
    return news(lake, wanted)


def test_a_new_version_of_a_table_is_news_until_it_is_read_and_one_that_goes_back_is_a_problem(tmp_path: Path) -> None:
    lake, table = Lake(str(tmp_path / "lake")), tmp_path / "log"
    rows = pa.table({"user_id": ["u"], "item_id": ["i"], "event_time": ["2026-01-01"]})
    write_deltalake(str(table), rows)
    shutil.copytree(table, tmp_path / "before")
    nothing = look(lake).digest
    first = look(lake, table)
    assert first.digest != nothing
    read(lake, table)
    assert look(lake, table).digest == nothing
    write_deltalake(str(table), rows, mode="append")
    assert look(lake, table).digest not in (nothing, first.digest)
    read(lake, table)
    assert look(lake, table) == News(nothing, ())
    shutil.rmtree(table)
    shutil.copytree(tmp_path / "before", table)
    (problem,) = look(lake, table).problems
    assert problem.name == f"source {table}"
    assert "is older than version 1, which was read before" in problem.message


def test_what_is_left_after_an_earlier_version_was_read_is_news_again(tmp_path: Path) -> None:
    """As a night reads it that an event with a snapshot started."""
    lake, table = Lake(str(tmp_path / "lake")), tmp_path / "log"
    for day in (1, 2):
        rows = pa.table({"user_id": ["u"], "item_id": ["i"], "event_time": [f"2026-01-0{day}"]})
        write_deltalake(str(table), rows, mode="append")
    before = look(lake, table).digest
    read(lake, f"{table}@v0")
    left = look(lake, table).digest
    assert left not in (before, look(lake).digest)
    read(lake, table)
    assert look(lake, table).digest == look(lake).digest


def read(lake: Lake, address: Path | str) -> None:
    spec = InteractionsSpec()
    before = records(lake, "interactions", spec)
    for source in unread(source_kind_of(str(address)).find(str(address), spec, before).sources, before):
        who = Provenance("test", "")
        record_source(lake, ingest_interactions(lake, source, spec, NOW, who), who)


def test_a_file_that_comes_or_grows_is_news_and_its_content_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, folder = Lake(str(tmp_path / "lake")), tmp_path / "in"
    folder.mkdir()
    (folder / "a.csv").write_text("user_id,item_id,event_time\n")

    def refuse(*arguments: Any) -> None:
        raise AssertionError("the content was read")

    monkeypatch.setattr("pipelines.sources.files._digest", refuse)
    seen = [look(lake, folder).digest]
    assert look(lake, folder).digest == seen[0]
    with (folder / "a.csv").open("a") as file:
        file.write("u,i,2026-01-01\n")
    seen.append(look(lake, folder).digest)
    (folder / "b.csv").write_text("user_id,item_id,event_time\n")
    seen.append(look(lake, folder).digest)
    assert len(set(seen)) == 3


def test_a_source_that_cannot_be_looked_at_does_not_hide_the_others(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    (tmp_path / "a.csv").write_text("user_id,item_id,event_time\n")
    found = look(lake, tmp_path / "absent", tmp_path / "a.csv", "-", "sql:query.sql")
    assert [each.name for each in found.problems] == [f"source {tmp_path / 'absent'}"]
    assert found.digest == look(lake, tmp_path / "a.csv").digest
