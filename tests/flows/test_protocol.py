"""Publishing as a protocol: whatever runs, people, clocks and crashes do in whatever order, production never goes back.

Real runs on a small lake are driven in orders that hypothesis chooses, one inside another, and compared with a plain
account of what was delivered.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import flows.backfill
import flows.candidates
import flows.nightly
import flows.runtime.run
import storage.runs.lease
from flows.backfill import backfill
from flows.bootstrap import bootstrap
from flows.cli.main import run_command
from flows.nightly import nightly
from flows.steps.publish import PublishOutcome
from sidmill.release import open_trie
from storage.commit import Provenance
from storage.errors import LakeError, LeaseLost, PointerMoved, PublishRefused
from storage.lake import Lake
from storage.releases.pointers import pointer_history
from storage.releases.releases import published, read_release, releases
from storage.runs.record import runs
from storage.schemas import TABLES

RECIPE: dict[str, Any] = {
    "text": None,
    "attributes": {"fields": ["kind", "size"], "dim": 8},
    "fusion": {"method": "concat", "dim": 8},
    "codebook": {"levels": [{"codes": 8}, {"codes": 8}, {"codes": 8}]},
    "gates": {gate: {"limit": 1.0, "severity": "warn"} for gate in ("shrinkage", "events_without_sid")},
}
WIDER = {**RECIPE, "codebook": {"levels": [{"codes": 16}, {"codes": 16}]}}
POINTS = {"take_snapshot": flows.nightly, "make_candidate": flows.candidates, "publish": flows.nightly}
"""Names of steps of a night, with the module that calls them, before which something else may happen."""
ITEMS = 12


class Killed(BaseException):
    """The process is gone at this point."""


@dataclass(frozen=True)
class Step:
    """One thing that happens: `what` with a clock that is `hours` off; `inside` happens before a run's `point`."""

    what: str
    hours: int = 0
    point: str = ""
    inside: "Step | None" = None


class Clock(datetime):
    """The time, some hours off."""

    off: ClassVar[timedelta] = timedelta()

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + cls.off


@dataclass
class World:
    """A lake, and the plain account of it: which items are there, as they were delivered."""

    folder: Path
    patch: pytest.MonkeyPatch
    alive: set[str] = field(default_factory=lambda: {f"i{number}" for number in range(ITEMS)})
    deliveries: int = 0
    rolled_back: bool = False
    sids: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def lake(self) -> Lake:
        return Lake(str(self.folder / "lake"))

    def do(self, step: Step, nested: bool = False) -> None:
        """One step, and what must hold after it. What a run inside another has not seen, the other brings."""
        before = published(self.lake)
        with self.patch.context() as patch:
            Clock.off = timedelta(hours=step.hours)
            patch.setattr(flows.runtime.run, "datetime", Clock)
            if step.point:
                self._interrupt(patch, step)
            try:
                done = self._run(step)
            except Killed:
                done = False
        Clock.off = timedelta()
        if self.rolled_back and step.what not in ("publish", "lift", "rollback"):
            inner = step.inside.what if step.inside else ""
            assert inner in ("publish", "lift", "rollback") or published(self.lake) == before, "a rollback holds"
        self._nothing_moved_and_nothing_went_back()
        if done and step.what.startswith("night") and not self.rolled_back and not nested:
            assert self._production().keys() == self.alive, step

    def _interrupt(self, patch: pytest.MonkeyPatch, step: Step) -> None:
        module = POINTS[step.point]
        called = getattr(module, step.point)

        def first(*arguments: Any, **options: Any) -> Any:
            patch.setattr(module, step.point, called)
            if step.inside is None:
                raise Killed
            self.do(step.inside, nested=True)
            return called(*arguments, **options)

        patch.setattr(module, step.point, first)

    def _run(self, step: Step) -> bool:
        uri = self.lake.uri
        match step.what:
            case "night-add":
                nightly(uri, None, [self._items({"item_id": f"n{self.deliveries}", "kind": "new", "size": "s"})])
            case "night-delete":
                nightly(uri, None, [self._items({"item_id": min(self.alive), "title": "gone", "deleted": True})])
            case "night-log":
                nightly(uri, None, [], [self._log()])
            case "night-empty":
                nightly(uri)
            case "night-as-of":
                as_of = datetime.now(UTC) + timedelta(hours=step.hours)
                night = partial(nightly, uri, None, [], [self._log()], as_of=as_of.isoformat())
                if as_of < read_release(self.lake, "production").as_of:
                    with pytest.raises(ValueError, match="is earlier than"):
                        night()
                else:
                    night()
                return False  # it may rightly not see what came with a clock ahead
            case "backfill":
                backfill(uri, WIDER)
            case "backfill-publish":
                with suppress(PublishRefused):
                    backfill(uri, WIDER, publish_when_done=True)
            case "rollback":
                self.rolled_back |= run_command(["release", "rollback", "--lake", uri]) == 0
            case "lift":
                run_command(["release", "hold", "--lift", "--lake", uri])
                self.rolled_back = False
            case "publish":
                newest = releases(self.lake)[-1].id
                if run_command(["release", "publish", newest, "--lake", uri]) == 0:
                    self.rolled_back = False
        return True

    def _items(self, row: dict[str, Any]) -> str:
        (self.alive.discard if row.get("deleted") else self.alive.add)(row["item_id"])
        return self._file("items.jsonl", json.dumps({"title": "x", **row}) + "\n")

    def _log(self) -> str:
        return self._file("log.csv", f"user_id,item_id,event_time\nu{self.deliveries},{min(self.alive)},2024-02-01\n")

    def _file(self, name: str, text: str) -> str:
        self.deliveries += 1
        path = self.folder / f"{self.deliveries}-{name}"
        path.write_text(text)
        return str(path)

    def _production(self) -> dict[str, tuple[int, ...]]:
        current = published(self.lake)
        assert current is not None
        return self._of(current.release)

    def _of(self, release: str) -> dict[str, tuple[int, ...]]:
        if release not in self.sids:
            trie = open_trie(self.lake, read_release(self.lake, release))
            codes = map(tuple, trie.codes().tolist())
            self.sids[release] = dict(zip(trie.item_ids.to_pylist(), codes, strict=True))
        return self.sids[release]

    def _nothing_moved_and_nothing_went_back(self) -> None:
        """No published SID changes or goes to another item, and only a rollback takes production back in time."""
        of_item: dict[tuple[str, str], tuple[int, ...]] = {}
        of_sid: dict[tuple[str, tuple[int, ...]], str] = {}
        last = None
        for move in pointer_history(self.lake, "production")[1:]:
            manifest = read_release(self.lake, move.value["release"])
            for item, sid in self._of(manifest.id).items():
                assert of_item.setdefault((manifest.codebook.id, item), sid) == sid
                assert of_sid.setdefault((manifest.codebook.id, sid), item) == item
            if last is not None and move.note != "rollback":
                assert manifest.as_of >= last.as_of, f"{manifest.id} after {last.id}"
                assert all(manifest.versions[table] >= last.versions[table] for table in ("items", "interactions"))
            assert manifest.fit_cutoff <= manifest.cutoff
            last = manifest


@pytest.fixture(scope="module")
def first_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    rows = [{"item_id": f"i{n}", "title": f"item {n}", "kind": f"k{n % 4}", "size": f"s{n % 3}"} for n in range(ITEMS)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "log.csv").write_text("user_id,item_id,event_time\nu0,i1,2024-01-01\n")
    bootstrap(str(folder / "lake"), RECIPE, [str(folder / "items.jsonl")], [str(folder / "log.csv")])
    return folder


@pytest.fixture
def world(first_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], World]]:
    """A world that begins after a bootstrap. No night waits for another: the lease saves work, it keeps no order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows.runtime.run, "ONE_AT_A_TIME", ())

        def begin() -> World:
            folder = tmp_path_factory.mktemp("world")
            shutil.copytree(first_lake / "lake", folder / "lake")
            return World(folder, patch)

        yield begin


PLAIN = ("night-add", "night-delete", "night-log", "night-empty", "night-as-of", "rollback", "publish", "lift")
hours = st.sampled_from([0, 0, 0, -6, 6, 24])
plain = st.builds(Step, st.sampled_from(PLAIN), hours)
inside = st.none() | st.builds(Step, st.sampled_from(PLAIN))
nights = st.builds(Step, st.sampled_from(PLAIN[:4]), hours, st.sampled_from(list(POINTS)), inside)
backfills = st.builds(Step, st.sampled_from(("backfill", "backfill-publish")))
steps = st.lists(plain | nights | backfills, min_size=2, max_size=5)

STOPPED_BEFORE_IT_PUBLISHED = [Step("night-log", 0, "publish", Step("night-delete"))]
CLOCK_GOES_BACK = [Step("night-add"), Step("night-add", -6), Step("night-empty", -6)]
CLOCK_A_DAY_AHEAD = [Step("night-add", 24), Step("night-delete"), Step("night-log", -6)]
TWO_INGEST_THEN_LOOK = [Step("night-add", 6, "take_snapshot", Step("night-add", 1)), Step("night-empty")]
ROLLED_BACK = [Step("night-add"), Step("rollback"), Step("night-empty"), Step("night-add"), Step("lift")]
ROLLED_BACK_MEANWHILE = [Step("night-add", 6), Step("night-add", 0, "publish", Step("rollback")), Step("publish")]
KILLED_WITH_A_CLOCK_AHEAD = [Step("night-add", 6, "take_snapshot"), Step("night-add")]
KILLED_THEN_DONE_AGAIN = [Step("night-add", 0, "publish"), Step("night-delete"), Step("night-empty")]


@pytest.mark.parametrize(
    "story",
    [
        STOPPED_BEFORE_IT_PUBLISHED,
        CLOCK_GOES_BACK,
        CLOCK_A_DAY_AHEAD,
        TWO_INGEST_THEN_LOOK,
        ROLLED_BACK,
        KILLED_THEN_DONE_AGAIN,
        KILLED_WITH_A_CLOCK_AHEAD,
    ],
    ids=[
        "stopped before it published",
        "clock goes back",
        "a day ahead",
        "two ingest then look",
        "rolled back",
        "killed",
        "ahead",
    ],
)
def test_the_stories_that_once_took_production_back(world: Callable[[], World], story: list[Step]) -> None:
    begun = world()
    for step in story:
        begun.do(step)


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@example(
    [Step("night-add", 6), Step("night-add", 0, "publish", Step("rollback")), Step("night-empty"), Step("publish")]
)
@given(steps)
def test_production_never_goes_back_whatever_happens_in_whatever_order(
    world: Callable[[], World], story: list[Step]
) -> None:
    begun = world()
    for step in story:
        begun.do(step)


@pytest.mark.parametrize("verb", ["nightly", "backfill"])
def test_a_run_that_loses_every_race_gives_up_and_the_next_one_publishes(
    world: Callable[[], World], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    begun, lost = world(), []
    log = begun._log()
    before = published(begun.lake)

    def lose(*arguments: Any) -> PublishOutcome:
        lost.append(arguments[1].id)
        return PublishOutcome.CONFLICT

    module, act = {
        "nightly": (flows.nightly, partial(nightly, begun.lake.uri, None, [], [log])),
        "backfill": (flows.backfill, partial(backfill, begun.lake.uri, WIDER, publish_when_done=True)),
    }[verb]
    with monkeypatch.context() as patch:
        patch.setattr(module, "publish", lose)
        with pytest.raises(PointerMoved, match=r"during each of 8 attempts"):
            act()
    assert len(lost) == 8
    assert len(set(lost)) == 1, "one candidate is enough, because production did not move"
    assert published(begun.lake) == before
    begun.do(Step("night-log"))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_production_never_goes_back_in_many_orders(world: Callable[[], World], story: list[Step]) -> None:
    begun = world()
    for step in story:
        begun.do(step)


def test_a_night_of_an_earlier_as_of_time_is_refused_before_it_writes(world: Callable[[], World]) -> None:
    lake = world().lake
    before = {table: lake.version(table) for table in TABLES if table != "runs"}
    with pytest.raises(ValueError, match=r"--as-of 2020-01-01T00:00:00.00:00 is earlier than"):
        nightly(lake.uri, as_of="2020-01-01")
    assert {table: lake.version(table) for table in before} == before
    assert runs(lake)[-1].state == "failed"


def test_a_night_keeps_the_cutoff_that_was_given_once_as_a_date(world: Callable[[], World], capsys: Any) -> None:
    begun = world()
    nightly(begun.lake.uri, None, [], [begun._log()], cutoff="2024-01-15")
    begun.do(Step("night-log"))
    manifest = read_release(begun.lake, "production")
    assert manifest.cutoff == manifest.cutoff_date == datetime(2024, 1, 15, tzinfo=UTC)
    assert "on are held out (the date given with --cutoff" in capsys.readouterr().out


def test_a_release_whose_files_are_damaged_is_not_published(world: Callable[[], World]) -> None:
    begun = world()
    begun.do(Step("night-add"))
    lake = begun.lake
    (file,) = lake.data_files("codebooks")
    path = Path(lake.path("codebooks")) / file.path
    data, times = bytearray(path.read_bytes()), path.stat()
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # a damage that changed no time, as that of a disk
    assert run_command(["release", "rollback", "--lake", lake.uri]) == 1
    with pytest.raises(LakeError, match="was changed after its commit"):
        nightly(lake.uri, None, [begun._items({"item_id": "late", "kind": "new"})])
    assert "late" not in begun._production()


def test_a_night_that_stood_still_publishes_nothing_once_another_one_took_its_place(
    world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has published nothing yet, so production is where this night read it: only the token tells."""
    begun, really = world(), flows.nightly.publish
    monkeypatch.setattr(flows.runtime.run, "ONE_AT_A_TIME", ("nightly",))
    monkeypatch.setattr(storage.runs.lease, "LOST_S", 0.0)
    other = storage.runs.lease.Lease(begun.lake, "nightly", Provenance("other", ""))

    def stand_still(*arguments: Any, **options: Any) -> Any:
        other.take(60, print)
        return really(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(flows.nightly, "publish", stand_still)
        with pytest.raises(LeaseLost, match="Nothing was published"):
            begun.do(Step("night-add"))
    other.close()
    assert [move.note for move in pointer_history(begun.lake, "production")[1:]] == ["bootstrap"]
    begun.do(Step("night-empty"))
    assert [move.note for move in pointer_history(begun.lake, "production")[1:]] == ["bootstrap", "nightly"]


def test_two_nights_that_find_the_same_news_do_the_work_once(
    world: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one waits before it writes, and finds that everything was read."""
    begun = world()
    monkeypatch.setattr(flows.runtime.run, "ONE_AT_A_TIME", ("nightly",))
    news = begun._items({"item_id": "n0", "kind": "new", "size": "s"})
    begins = threading.Barrier(2)
    take = storage.runs.lease.Lease.take

    def together(lease: Any, *arguments: Any) -> None:
        begins.wait(60)
        take(lease, *arguments)

    monkeypatch.setattr(storage.runs.lease.Lease, "take", together)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: nightly(begun.lake.uri, None, [news]), range(2)))
    assert sorted(each["made"] for each in done) == [False, True]
    assert len(releases(begun.lake)) == 2
    assert begun._production().keys() == begun.alive
