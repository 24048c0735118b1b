"""Whatever writes a lake in whatever order, one inside another or killed: what was erased stays gone, all else stays.

A plain account says which rows were delivered, which versions releases pin, and whose erasure has ended.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from made_releases import TIME, WHO, candidate, model, publish

from bench.faults.erased_ids import files_holding
from storage import commit
from storage.commit import append
from storage.erasure.erase import NotErased, erase
from storage.erasure.record import unfinished
from storage.erasure.rows import Subjects
from storage.errors import (
    DataCorrupt,
    ErasedMeanwhile,
    LakeError,
    LeaseTaken,
    PointerMoved,
    Retired,
    StaleCandidate,
)
from storage.files import rewritten_log
from storage.files.store import WRITING, Files
from storage.files.table_log import Log
from storage.lake import Lake
from storage.quarantine import Reject, quarantine
from storage.releases.catalogue import NAMELESS
from storage.releases.completeness import lost_commits
from storage.releases.integrity import check_pinned
from storage.releases.releases import read_release, recorded_releases
from storage.releases.standing import pin, read_standing, unpin
from storage.retention import collect as collecting
from storage.retention import copying, small_files
from storage.retention.backup import backup, restore
from storage.retention.collect import collect
from storage.retention.policy import Policy
from storage.runs import lease, record
from storage.runs.record import RunRecord
from storage.schemas import PROPERTIES, TABLES

MOMENT = timedelta(milliseconds=1)
TAGS = {"items": "text_hash", "vectors": "content_hash", "interactions": "event_id", "sids": "codes"}
"""Columns that tell the rows of a table apart, and that name nobody."""
RECORDS = ("quarantine", "runs", "pointers", "releases")
ORDERS = int(os.environ.get("SIDMILL_ORDERS", "1"))
"""Orders that are drawn; `make test-all` draws more. With another seed (`--hypothesis-seed`) others are drawn."""
EVENTS = {"night": 60, "erase": 60, "gc": 40, "pin": 4, "unpin": 4, "publish": 6, "backup": 90}
"""Writes, deletions and commits of a step, about; one of them is where something else happens, or the end."""


class Killed(BaseException):
    """The process is gone at this point."""


@dataclass(frozen=True)
class Step:
    """One thing that happens, a number `at` that it needs, what happens `inside` of it, and whether it is `killed`.

    A step with both goes on for `more` events after what happened inside.
    """

    what: str
    at: int = 0
    inside: "Step | None" = None
    killed: bool = False
    more: int = 0


@dataclass
class Frame:
    """A step that is going on, and the events until something happens."""

    step: Step
    left: int
    count: int = 0


@dataclass
class Account:
    """An account: (item, user) of each row delivered, by table and tag; what releases pinned; and whose rows went."""

    nights: int = 0
    rows: dict[str, dict[Any, tuple[str, str]]] = field(default_factory=lambda: {table: {} for table in TAGS})
    unsure: list[tuple[str, dict[Any, tuple[str, str]]]] = field(default_factory=list)
    pinned: dict[str, dict[str, set[Any]]] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    records: dict[str, set[Any]] = field(default_factory=dict)


class World:
    """A lake and the plain account of it."""

    def __init__(self, lake: Lake, account: Account) -> None:
        self.lake, self.account, self.places = lake, account, 0
        self.frames = list[Frame]()
        self.clean = set[str]()
        self.began = datetime.now(UTC)
        self.pid = 0

    def do(self, step: Step) -> None:
        self.began = datetime.now(UTC) - 10 * MOMENT
        self._within(step)
        self.settle()
        self.check()

    def _within(self, step: Step) -> None:
        at = step.at % EVENTS.get(step.what, 1) if step.inside or step.killed else -1
        self.frames.append(Frame(step, at))
        lake, pid = self.lake, self.pid
        self.lake = Lake(lake.uri)
        try:
            self._run(step)
        except Killed:
            self.account.dead.add(self.pid)
        except (Retired, PointerMoved, StaleCandidate, ErasedMeanwhile, LeaseTaken):
            pass
        finally:
            self.frames.pop()
            self.pid = pid
            if self.frames:
                self.lake = lake

    def event(self, draft: Callable[[], None] | None = None) -> None:
        """One write, deletion or commit is about to happen, or has."""
        if not self.frames:
            return
        frame = self.frames[-1]
        frame.left -= 1
        if frame.left != -1:
            return
        if frame.step.inside is not None and frame.count == 0:
            frame.count = 1
            frame.left = frame.step.more if frame.step.killed else -1
            self._within(frame.step.inside)
        elif frame.step.killed:
            if draft is not None and frame.step.at % 3 == 0:
                draft()
            raise Killed

    def _run(self, step: Step) -> None:
        match step.what:
            case "night":
                self._night(step)
            case "publish" if made := self._staying():
                publish(self.lake, made[step.at % len(made)], WHO)
            case "pin" if made := self._staying():
                pin(self.lake, made[step.at % len(made)], "why", None, WHO)
            case "unpin":
                for release in read_standing(self.lake).pins:
                    unpin(self.lake, release, WHO)
            case "gc":
                collect(self.lake, Policy(1, MOMENT), WHO, True, self.began)
            case "erase":
                self._erase(step)
            case "backup" if made := self._staying():
                self._backup(made[step.at % len(made)])

    def _staying(self) -> list[str]:
        retired = read_standing(self.lake).retired
        return [each.id for each in recorded_releases(self.lake) if each.id not in retired]

    def _night(self, step: Step) -> None:
        account = self.account
        number = account.nights = account.nights + 1
        self.pid = number
        run = RunRecord(self.lake, f"night-{number}", "nightly", "", {})
        try:
            run.begin()
            self._deliver(number, step)
            run.end("finished", {})
        except LakeError:
            run.end("failed", {})
            raise

    def _deliver(self, number: int, step: Step) -> None:
        account, lake = self.account, self.lake
        gone = account.erased | account.wanted
        users = [user for user in (f"user-{name}" for name in "ABCDEF") if user not in gone]
        user = users[step.at % len(users)]
        old = sorted({item for item, _ in account.rows["items"].values() if item not in gone})
        new = [f"item-{number:03d}-{name}" for name in "xy"]
        items = [*new, *old[step.at % max(1, len(old)) :][:1]]
        for item in new:
            lake.blobs.put(f"picture of {item}".encode())
        images = {item: [lake.blobs.put(f"picture of {item}".encode())] for item in new}
        tags = {item: f"t{number}-{place}" for place, item in enumerate(items)}
        self._append(
            "items",
            {
                tags[item]: (
                    (item, ""),
                    {
                        "item_id": item,
                        "revision": number,
                        "attributes": "{}",
                        "images": images.get(item, []),
                        "deleted": False,
                        "arrived_at": TIME,
                        "source": "items.csv",
                        "source_row": place,
                    },
                )
                for place, item in enumerate(items)
            },
        )
        self._append(
            "interactions",
            {
                f"e{number}-{place}": (
                    (item, user),
                    {
                        "user_id": user,
                        "item_id": item,
                        "event_type": "click",
                        "event_time": TIME,
                        "arrival_time": TIME,
                        "arrival_date": TIME.date(),
                        "source": "log.csv",
                        "source_offset": place,
                    },
                )
                for place, item in enumerate(items)
            },
        )
        self._append(
            "vectors",
            {
                tags[item]: ((item, ""), {"item_id": item, "modality": "m", "fingerprint": "f", "vector": [1.0]})
                for item in items
            },
        )
        self._append(
            "sids",
            {
                (number, place): (
                    (item, ""),
                    {
                        "assignment_id": f"seg{number}",
                        "codebook": "c1",
                        "item_id": item,
                        "vector_hash": "h",
                        "status": "assigned",
                    },
                )
                for place, item in enumerate(new)
            },
        )
        quarantine(lake, [Reject("s", "r", f"row of '{user}'", "log.csv", number, None, f'["{new[0]}"]')], WHO)
        lake.files.write(f"logs/night-{number}.log", f"row of '{user}', {new[0]}".encode())
        kept = {
            table: {tag for tag, about in rows.items() if not account.erased & {*about}}
            for table, rows in account.rows.items()
        }
        kept["sids"] = set(account.rows["sids"])
        versions = {table: lake.version(table) for table in TAGS}
        segments = sorted({f"seg{each}" for each, _ in kept["sids"]})
        made = candidate(lake, f"key-{number}", [], versions=versions, manifest={"assignments": segments})
        account.pinned[made.id] = kept
        if number % 3 == 0:
            model(lake, made.id, made.id, "v-c1")
        if step.at % 4 != 3:
            publish(lake, made.id, WHO)

    def _append(self, table: str, rows: dict[Any, tuple[tuple[str, str], dict[str, Any]]]) -> None:
        about = {tag: who for tag, (who, _) in rows.items()}
        schema = TABLES[table].schema
        filled = [
            {**dict.fromkeys(schema.names), **row, TAGS[table]: list(tag) if table == "sids" else tag}
            for tag, (_, row) in rows.items()
        ]
        self.account.unsure.append((table, about))
        append(self.lake, table, pa.Table.from_pylist(filled, schema=schema), f"{table}-{sorted(about)[0]}", WHO)
        self.account.unsure.remove((table, about))
        self.account.rows[table] |= about

    def _erase(self, step: Step) -> None:
        """Go on with what did not end, or erase an item or a user that is there."""
        account = self.account
        for wanted in unfinished(self.lake).values():
            self._erase_these(wanted.users, wanted.items)
        there = {who for rows in account.rows.values() for about in rows.values() for who in about if who}
        left = sorted(there - account.erased - account.wanted)
        if left and not account.wanted:
            name = left[step.at % len(left)]
            ids = frozenset({name})
            account.wanted |= ids
            self._erase_these(*((ids, frozenset[str]()) if name.startswith("user") else (frozenset[str](), ids)))

    def _erase_these(self, users: frozenset[str], items: frozenset[str]) -> None:
        with suppress(NotErased):
            erase(self.lake, Subjects(users, items), "", WHO, 0)
            self.account.wanted -= users | items
            self.account.erased |= users | items

    def _backup(self, release: str) -> None:
        before, alone = set(self.account.erased), self.frames[-1].step.inside is None
        rows = {table: set(tags) for table, tags in self.account.rows.items()}
        self.places += 1
        place = f"{self.lake.uri}-{self.places}"
        try:
            backup(self.lake, f"{place}-backup", release, WHO)
            restored = Lake(f"{place}-restored")
            restore(f"{place}-backup", restored)
        except ErasedMeanwhile:
            assert self.account.wanted or self.account.erased != before or unfinished(self.lake)
            return
        except (DataCorrupt, Retired):
            if alone:
                raise
            return
        assert self.account.erased == before
        self.require_clean(restored)
        self.require_whole(restored, rows)
        if alone and not self.account.wanted and len(self.frames) == 1:
            self.lake = restored

    def settle(self) -> None:
        """Look which commits of killed writers, and which releases, were made."""
        account = self.account
        for table, about in account.unsure:
            if account.rows[table].keys().isdisjoint(about):
                found = set(self._tags(self.lake, table))
                if not found.isdisjoint(about):
                    account.rows[table] |= about
        account.unsure.clear()
        for manifest in recorded_releases(self.lake):
            if manifest.id not in account.pinned:
                account.pinned[manifest.id] = {
                    table: set(self._tags(self.lake, table, manifest.versions[table])) for table in TAGS
                }
        if account.wanted and not unfinished(self.lake):
            account.wanted.clear()  # it was killed before it began, or after it ended

    def _tags(self, lake: Lake, table: str, version: int | None = None) -> list[Any]:
        found = lake.read(table, version)[TAGS[table]].to_pylist()
        return [tuple(each) if table == "sids" else each for each in found]

    def check(self) -> None:
        lake = Lake(self.lake.uri)
        self.require_clean(lake)
        self.require_whole(lake)

    def require_clean(self, lake: Lake) -> None:
        holding, clean = files_holding(lake, sorted(self.account.erased), self.clean)
        assert holding == []
        self.clean |= set(clean)

    def require_whole(self, lake: Lake, rows: dict[str, set[Any]] | None = None) -> None:
        """The lake has at least some rows, by default all."""
        account = self.account
        assert list(lost_commits(lake)) == []
        for table in TABLES:
            if lake.exists(table):
                assert list(Log(lake.table_files(table), table).faults()) == [], table
        for table in TAGS:
            own = set(account.rows[table]) if rows is None else rows[table]
            self._require_rows(lake, table, None, own, set(account.rows[table]))
        for table in RECORDS:
            keys = [tuple(row[name] for name in TABLES[table].key) for row in lake.read(table).to_pylist()]
            assert len(keys) == len(set(keys)), table
            names = {key[:1] if table == "quarantine" else key for key in keys}  # an erasure resolves refused rows
            if rows is None:
                assert account.records.get(table, set()) <= names, table
                account.records[table] = names
        retired = read_standing(lake).retired
        for manifest in recorded_releases(lake):
            if manifest.id not in retired:
                check_pinned(lake, read_release(lake, manifest.id), None, WHO)
                for table, tags in account.pinned[manifest.id].items():
                    self._require_rows(lake, table, manifest.versions[table], tags, tags)

    def _require_rows(self, lake: Lake, table: str, version: int | None, tags: set[Any], most: set[Any]) -> None:
        """All rows are there once, without those of whom an erasure that ended took out, and SIDs under no name."""
        about, account = self.account.rows[table], self.account
        found = self._tags(lake, table, version)
        assert len(found) == len(set(found)), table
        sure = {tag for tag in tags if table == "sids" or not {*about[tag]} & (account.erased | account.wanted)}
        may = {tag for tag in most if table == "sids" or not {*about[tag]} & account.erased}
        assert sure <= set(found) <= may, (table, version)
        if table == "sids":
            for row in lake.read(table, version).to_pylist():
                item = about[tuple(row["codes"])][0]
                if item not in account.wanted:
                    assert row["item_id"].startswith(NAMELESS) == (item in account.erased)
                    assert row["item_id"] == item or item in account.erased


@contextmanager
def hooked(patch: pytest.MonkeyPatch, world: World) -> Iterator[None]:
    """Tell a world of each write, deletion and commit."""
    write, delete, commits = Files.write, Files.delete, commit._commit

    def hooked_write(files: Files, name: str, data: bytes) -> None:
        def draft() -> None:
            path = Path(files.uri, name).parent / f"{WRITING}{os.urandom(4).hex()}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

        world.event(draft)
        write(files, name, data)

    def hooked_delete(files: Files, name: str) -> None:
        world.event()
        delete(files, name)

    def hooked_commit(*arguments: Any, **options: Any) -> None:
        world.event()
        commits(*arguments, **options)
        world.event()

    with patch.context() as inner:
        inner.setattr(Files, "write", hooked_write)
        inner.setattr(Files, "delete", hooked_delete)
        inner.setattr(commit, "_commit", hooked_commit)
        inner.setattr(record, "this_process", lambda: {"host": "h", "pid": world.pid})
        inner.setattr(record, "may_live", lambda process: process["pid"] not in world.account.dead)
        inner.setattr(collecting, "WAIT_S", 0)
        inner.setattr(lease, "LOOK_S", 0)
        yield


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A lake after some nights, with a checkpoint every third commit and joins of more than three files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROPERTIES, "delta.checkpointInterval", "3")
        patch.setattr(commit, "MAX_FILES", 3)
        patch.setattr(small_files, "MAX_SMALL_FILES", 3)
        patch.setattr(rewritten_log, "LOADING_S", 0)
        patch.setattr(copying, "THREADS", 1)
        patch.setattr(os, "fsync", lambda _: None)  # the machine goes on after all kills of this test
        world = World(Lake(str(tmp_path_factory.mktemp("begun") / "lake")), Account())
        with hooked(patch, world):
            for number in range(5):
                world._night(Step("night", number))
            world.settle()
            world.check()
        yield world


KINDS = ("night", "gc", "gc", "erase", "erase", "pin", "publish", "unpin", "backup")
plain = st.builds(Step, st.sampled_from(KINDS), st.integers(0, 11))
numbers = st.integers(0, 240)
innermost = st.one_of(plain, st.builds(Step, st.sampled_from(("erase", "gc")), numbers, killed=st.just(True)))
steps = st.one_of(
    plain,
    st.builds(Step, st.sampled_from(KINDS), numbers, innermost),
    st.builds(Step, st.sampled_from(KINDS), numbers, st.none() | plain, st.just(True), st.integers(0, 12)),
)


@settings(
    max_examples=ORDERS,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # shrinking would take many minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(order=st.lists(steps, min_size=3, max_size=6))
@example(order=[Step("erase", 11), Step("erase", 4), Step("erase", 25, Step("gc", 95, killed=True))])
@example(order=[Step("erase", 1), Step("erase", 8), Step("erase", 17, Step("pin", 6), True, 11), Step("gc", 6)])
@example(order=[Step("gc", 6), Step("backup", 1, Step("night", 8)), Step("night", 30, Step("erase", 9), True, 9)])
def test_what_was_erased_stays_gone_in_any_order_of_writers(
    begun: World, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, order: list[Step]
) -> None:
    folder = tmp_path_factory.mktemp("order")
    world = World(Lake(str(shutil.copytree(begun.lake.uri, folder / "lake"))), deepcopy(begun.account))
    with hooked(monkeypatch, world):
        for step in [*order, Step("erase"), Step("gc"), Step("night"), Step("erase")]:
            world.do(step)
    shutil.rmtree(folder)
