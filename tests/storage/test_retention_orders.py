"""Whatever nights, people and `lake gc` do in whatever order, one inside another or killed: what stays can be read.

A plain account says what was made and pinned, and which rows each release had when it was made.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from made_releases import WHO, candidate, model, publish

from pipelines.modalities import FUSED
from pipelines.vector_store import cached, store_vectors
from storage import commit
from storage.commit import generation
from storage.errors import LakeError, LeaseTaken, PointerMoved, Retired, StaleCandidate
from storage.files.table_log import Log
from storage.lake import Lake
from storage.releases.completeness import lost_commits
from storage.releases.integrity import check_pinned
from storage.releases.manifest import Manifest
from storage.releases.models import read_model
from storage.releases.pointers import pointer_history, read_pointer
from storage.releases.publishing import rollback
from storage.releases.releases import read_release, recorded_releases
from storage.releases.standing import pin, read_standing, unpin
from storage.retention import collect as collecting
from storage.retention import small_files
from storage.retention.collect import collect
from storage.retention.policy import Policy
from storage.runs import lease
from storage.schemas import PROPERTIES, TABLES

KEEP, GRACE = 2, timedelta(hours=12)


class Killed(BaseException):
    """The process is gone at this point."""


@dataclass(frozen=True)
class Step:
    """One thing that happens, a number `at` that it needs, and what happens `inside` of it, else it may be killed."""

    what: str
    at: int = 0
    inside: "Step | None" = None
    killed: bool = False


@dataclass
class World:
    """A lake whose clock is `days` ahead, and the plain account of it."""

    lake: Lake
    patch: pytest.MonkeyPatch
    days: int = 0
    made: list[str] = field(default_factory=list)
    pinned: set[str] = field(default_factory=set)
    held: dict[str, Manifest] = field(default_factory=dict)
    rows: dict[str, pa.Table] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
    dated: float = 0.0

    @property
    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self.days)

    def date_files(self) -> None:
        """Give the files written since the last call the time of this world."""
        real = time.time()
        for path in Path(self.lake.uri).rglob("*"):
            with suppress(FileNotFoundError):
                if self.days and path.is_file() and self.dated <= path.stat().st_mtime <= real:
                    os.utime(path, (real + self.days * 86400,) * 2)
        self.dated = real

    def do(self, step: Step) -> None:
        self.date_files()
        with self.patch.context() as patch:
            if step.inside is not None or step.killed:
                self._between(patch, step)
            with suppress(Killed, Retired, PointerMoved, StaleCandidate):
                self._run(step)
        self.date_files()
        if step.what == "gc":
            self.check()

    def _run(self, step: Step) -> None:
        match step.what:
            case "night" | "candidate":
                self._night(step)
            case "rollback":
                with suppress(LakeError):
                    rollback(self.lake, WHO)
            case "pin" if self.made:
                release = self.made[step.at % len(self.made)]
                pin(self.lake, release, "why", None, WHO)
                self.pinned.add(release)
            case "unpin" if self.pinned:
                release = sorted(self.pinned)[step.at % len(self.pinned)]
                self.pinned.discard(release)
                unpin(self.lake, release, WHO)
            case "days":
                self.days += 1
            case "gc":
                found = collect(self.lake, Policy(KEEP, GRACE), WHO, True, self.now)
                self.gone |= dict.fromkeys((each.path for each in found.garbage), time.time() + self.days * 86400)

    def _night(self, step: Step) -> None:
        number = len(self.made)
        segments = [f"s{each}" for each in range(number + 1)]
        seen, fusion = generation(self.lake, "vectors"), f"f{number // 2 % 2}"
        self._fuse(fusion, number + 1)
        versions = {"vectors": self.lake.version("vectors")}
        if generation(self.lake, "vectors", version=versions["vectors"]) != seen:
            return  # as `Run.require_vectors` does
        made_with = {"fingerprint": fusion, "details": {}}
        made = candidate(self.lake, f"key-{number}", segments, versions=versions, fusion=made_with)
        self.made.append(made.id)
        self.held[made.id], self.rows[made.id] = made, self._rows_at(made.versions["sids"])
        if number % 3 == 0:
            model(self.lake, made.id, made.id, "v-c1")
        if step.what == "night":
            publish(self.lake, made.id, WHO)

    def _fuse(self, fusion: str, count: int) -> None:
        """Store the vectors of some items under a fusion that the lake lacks."""
        there = set(cached(self.lake, FUSED, fusion)["item_id"]) if self.lake.exists("vectors") else set[str]()
        rows = [
            {"item_id": f"i{each}", "modality": FUSED, "content_hash": "h", "fingerprint": fusion, "vector": [1.0]}
            for each in range(count)
            if f"i{each}" not in there
        ]
        if rows:
            store_vectors(self.lake, pl.DataFrame(rows), WHO)

    def _rows_at(self, version: int) -> pa.Table:
        rows = self.lake.read("sids", version)
        return rows.sort_by([("assignment_id", "ascending"), ("item_id", "ascending")])

    def _between(self, patch: pytest.MonkeyPatch, step: Step) -> None:
        """Before one of the commits or deletions of a step something else happens, once, or it is killed."""
        left = [step.at % 7]

        def first(called: Callable[..., Any]) -> Callable[..., Any]:
            def hooked(*arguments: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] == -1:
                    if step.inside is None:
                        raise Killed
                    self.date_files()
                    with suppress(LeaseTaken):
                        self._run(step.inside)
                    self.date_files()
                return called(*arguments, **options)

            return hooked

        for module, name in ((commit, "_commit"), (collecting, "_delete"), (collecting, "write_trim")):
            patch.setattr(module, name, first(getattr(module, name)))

    def check(self) -> None:
        """Releases that production, pins and the policy name can be read in full; reported removals are gone."""
        lake = Lake(self.lake.uri)
        assert list(lost_commits(lake)) == []
        for table in TABLES:
            if lake.exists(table):
                assert list(Log(lake.table_files(table), table).faults()) == [], table
        retired = read_standing(lake).retired
        current = read_pointer(lake, "production").value
        moves = [move.value["release"] for move in reversed(pointer_history(lake, "production")[1:])]
        newest = list(dict.fromkeys(moves))[:KEEP]  # with those of a night that was killed later
        last = [each.id for each in recorded_releases(lake)][-KEEP:]
        stay = {*self.pinned, *newest, *last, *([current["release"]] if current else [])}
        assert not stay & set(retired)
        for release in stay & set(self.made):
            check_pinned(lake, read_release(lake, release), None, WHO)
            made = read_release(lake, release)
            assert self._rows_at(made.versions["sids"]).equals(self.rows[release])
            fused = cached(lake, FUSED, made.fusion.fingerprint, version=made.versions["vectors"])["item_id"]
            assert {f"i{each}" for each in range(self.made.index(release) + 1)} <= set(fused)
        if current and current["model"]:
            check_pinned(lake, read_release(lake, current["release"]), current["model"], WHO)
            assert read_release(lake, read_model(lake, current["model"]).release)
        for release in self.made:
            if release in retired:
                with pytest.raises(Retired):
                    read_release(lake, release)
                if self.now - retired[release] < GRACE:
                    assert self._rows_at(self.held[release].versions["sids"]).equals(self.rows[release]), "for a reader"
                    assert lake.blobs.get(self.held[release].trie.sha256)
        for path, when in self.gone.items():
            again = Path(lake.uri) / path
            assert not again.exists() or again.stat().st_mtime > when, "a night that was killed is run again"


STEPS = ("night", "night", "candidate", "rollback", "pin", "unpin", "days", "days", "gc", "gc")
plain = st.builds(Step, st.sampled_from(STEPS), st.integers(0, 9))
steps = st.one_of(
    plain,
    st.builds(Step, st.sampled_from(("night", "candidate", "gc", "gc")), st.integers(0, 40), plain),
    st.builds(Step, st.sampled_from(("night", "gc")), st.integers(0, 40), killed=st.just(True)),
)
NIGHT, DAYS, GC = Step("night"), Step("days"), Step("gc")


@settings(
    max_examples=2,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # shrinking would take many minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(order=st.lists(steps, min_size=4, max_size=9))
@example(order=[Step("pin"), NIGHT, NIGHT, NIGHT, DAYS, GC, DAYS, Step("gc", 5, killed=True), GC, Step("rollback")])
@example(order=[NIGHT, NIGHT, NIGHT, NIGHT, Step("night", 1, GC), Step("gc", 1, Step("pin")), DAYS, GC])
def test_what_stays_can_be_read_in_any_order_of_nights_and_gc(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, order: list[Step]
) -> None:
    """With a checkpoint every third commit, so that logs are cut, and joins of more than three files."""
    monkeypatch.setitem(PROPERTIES, "delta.checkpointInterval", "3")
    monkeypatch.setattr(commit, "MAX_FILES", 3)
    monkeypatch.setattr(small_files, "MAX_SMALL_FILES", 3)
    monkeypatch.setattr(collecting, "WAIT_S", 0)
    monkeypatch.setattr(lease, "LOOK_S", 0)
    world = World(Lake(str(tmp_path_factory.mktemp("lake"))), monkeypatch)
    for step in [NIGHT, *order]:
        world.do(step)
    world.do(GC)
