"""The oracle of `python -m bench soak` finds what is lost, doubled, moved, taken back or left after an erasure."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bench.faults.soak_look import look
from bench.faults.soak_oracle import Oracle
from bench.faults.soak_plan import FAULTS_OF, plan_of
from flows.bootstrap import bootstrap
from flows.nightly import nightly
from storage.commit import Provenance, append
from storage.lake import Lake
from storage.releases.pointers import move_pointer, read_pointer
from storage.schemas import INTERACTIONS

WHO = Provenance("test", "")
RECIPE: dict[str, Any] = {
    "text": None,
    "attributes": {"fields": ["kind"], "dim": 8},
    "collaborative": {"method": "sppmi", "dim": 4, "min_events": 1},
    "fusion": {"method": "concat", "dim": 8},
    "codebook": {"levels": [{"codes": 8}, {"codes": 8}]},
    "gates": {gate: {"limit": 1.0, "severity": "warn"} for gate in ("shrinkage", "events_without_sid")},
}
DAY_US = 86_400_000_000
START_US = 1_704_067_200_000_000  # 2024-01-01


def deliver(folder: Path, oracle: Oracle, first: int, count: int) -> tuple[list[str], list[str]]:
    """Write items and an event of each; tell the oracle of them."""
    items = {f"item-{number}": f"Item {number}" for number in range(first, first + count)}
    events = [(f"user-{at % 3}", item, START_US + at * DAY_US, "view") for at, item in enumerate(items, first)]
    catalogue, log = folder / f"items-{first}.jsonl", folder / f"log-{first}.csv"
    rows = [{"item_id": item, "title": title, "kind": f"k{len(title)}"} for item, title in items.items()]
    catalogue.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{user},{item},{time // 1_000_000},{kind}" for user, item, time, kind in events]
    log.write_text("\n".join(["user_id,item_id,event_time,event_type", *lines]) + "\n")
    oracle.deliver(dict(items), events)
    oracle.promised = oracle.live()
    return [str(catalogue)], [str(log)]


@pytest.fixture(scope="module")
def after_a_night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Oracle]:
    """A lake after a bootstrap and a night, and the oracle that was told of both."""
    folder, oracle = tmp_path_factory.mktemp("soak"), Oracle()
    lake = Lake(str(folder / "lake"))
    bootstrap(lake.uri, RECIPE, *deliver(folder, oracle, 0, 20))
    assert oracle.after_step(look(lake, [], set())) == []
    nightly(lake.uri, None, *deliver(folder, oracle, 20, 3))
    assert oracle.after_step(look(lake, [], set())) == []
    return folder / "lake", oracle


@pytest.fixture
def world(after_a_night: tuple[Path, Oracle], tmp_path: Path) -> tuple[Lake, Oracle]:
    place, oracle = after_a_night
    return Lake(str(shutil.copytree(place, tmp_path / "lake"))), copy.deepcopy(oracle)


def wrong(world: tuple[Lake, Oracle]) -> list[str]:
    lake, oracle = world
    return oracle.after_step(look(lake, sorted(oracle.erased), set()))


def test_what_was_delivered_and_what_is_there_agree(world: tuple[Lake, Oracle]) -> None:
    assert wrong(world) == []
    assert len(world[1].sids) == 23
    assert len(world[1].stored()) == 23


def test_items_that_are_lacking_or_too_many_are_told(world: tuple[Lake, Oracle]) -> None:
    world[1].deliver({"never": "delivered"}, [])
    world[1].promised = world[1].live()
    told = wrong(world)
    assert [line.partition(" (")[0].partition(":")[0] for line in told] == [
        "items of the catalogue",
        "items of production",
    ]
    assert all("1 lacking" in line and "never" in line for line in told)
    world[1].items.pop("never")
    world[1].promised = world[1].live() - {"item-3"}
    assert ["item-3" in line and "1 too many" in line for line in wrong(world)] == [True]


def test_an_event_that_is_lost_or_doubled_is_told(world: tuple[Lake, Oracle]) -> None:
    lake, oracle = world
    row = lake.read("interactions").slice(4, 1).to_pylist()
    append(lake, "interactions", pa.Table.from_pylist(row, INTERACTIONS.schema), "again", WHO)
    assert [line.partition(" (")[0] for line in wrong(world)] == ["doubled event"]
    before = copy.deepcopy(oracle)
    seen = look(lake, [], set())
    assert [line.partition(" (")[0] for line in oracle.after_kill(before, seen, "night")] == ["doubled event"]
    oracle.events.add(("user-1", "item-1", START_US, "buy"))
    assert any(line.startswith("events: 1 lacking") for line in wrong(world))
    assert not any("lacking" in line for line in oracle.after_kill(before, seen, "night"))  # it was being delivered
    before.events.add(("user-1", "item-1", START_US, "buy"))
    assert any(line.startswith("events lost by a kill: 1") for line in oracle.after_kill(before, seen, "night"))
    oracle.events = before.events = set()
    told = oracle.after_kill(before, seen, "night")
    assert any(line.startswith("events that nobody delivered: 23") for line in told)


def test_an_event_of_an_item_that_has_not_come_waits(world: tuple[Lake, Oracle]) -> None:
    event = ("user-1", "item-77", START_US, "view")
    world[1].deliver({}, [event])
    assert wrong(world) == []
    world[1].deliver({"item-77": "Item 77"}, [])
    assert any(line.startswith("events: 1 lacking") for line in wrong(world))


def test_a_published_sid_that_moves_or_changes_hands_is_told(world: tuple[Lake, Oracle]) -> None:
    oracle = world[1]
    (book, item), sid = next(iter(oracle.sids.items()))
    oracle.sids[book, item] = (7, 7, 7)
    assert any(f"the SID of {item} under {book[:8]} was (7, 7, 7) and is {sid}" in line for line in wrong(world))
    oracle.sids[book, item] = sid
    oracle.owner[book, sid] = "another"
    told = wrong(world)
    assert told
    assert all(f"was of another and is of {item} in r-00000" in line for line in told)


def test_production_that_goes_back_is_told_but_for_a_rollback(world: tuple[Lake, Oracle]) -> None:
    lake, oracle = world
    oracle.promised = None
    back = {"release": "r-000001", "model": None}
    move_pointer(lake, read_pointer(lake, "production"), back, "rollback", WHO)
    assert wrong(world) == []
    move_pointer(lake, read_pointer(lake, "production"), {**back, "release": "r-000002"}, "publish", WHO)
    move_pointer(lake, read_pointer(lake, "production"), back, "nightly", WHO)
    assert wrong(world) == ["production went back from r-000002 to r-000001 by nightly"]


def test_files_that_hold_what_was_erased_and_damaged_files_are_told(world: tuple[Lake, Oracle]) -> None:
    lake, oracle = world
    oracle.erase("user-1", "item-20")
    told = wrong(world)
    assert any(line.startswith("events: 0 lacking") for line in told)
    held = [line for line in told if line.endswith("holds what was erased")]
    assert any(line.startswith("interactions/") for line in held)
    assert any(line.startswith("items/") for line in held)
    oracle.erased.clear()
    next(path for path in Path(lake.uri, "blobs").rglob("*") if path.is_file()).write_bytes(b"damaged")
    assert any(line.startswith("lake verify: ") for line in wrong(world))


def test_a_plan_is_the_same_for_the_same_seed_and_has_every_verb() -> None:
    plan = plan_of(5, 24, 0.5)
    assert plan == plan_of(5, 24, 0.5)
    assert plan != plan_of(6, 24, 0.5)
    assert {step.verb for seed in range(4) for step in plan_of(seed, 24, 0.5)} == FAULTS_OF.keys()
    assert all(step.fault in ("", *FAULTS_OF[step.verb]) for step in plan)
    assert {step.fault for step in plan_of(5, 24, 0.0)} == {""}
