"""Releases are published whole, in order, by one pointer; what was published is never freed."""

import json
import re
import threading
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from made_releases import CUTOFF, TIME, WHO, candidate, model, publish

from storage.commit import append
from storage.errors import (
    GateBlocked,
    LakeNotFound,
    LineageBroken,
    PointerMoved,
    PublishRefused,
    Retired,
    StaleCandidate,
)
from storage.lake import Lake
from storage.releases.evaluation import EvaluationResult
from storage.releases.models import models, models_of, record_evaluation
from storage.releases.pointers import read_pointer
from storage.releases.publishing import Publication, publish_by_run, rollback, was_published
from storage.releases.releases import (
    Published,
    fit_cutoff_of,
    published,
    published_assignments,
    read_release,
    release_of_fit,
    releases,
)
from storage.retention.collect import collect
from storage.retention.policy import Policy
from storage.runs.record import RunRecord, read_run, runs


def test_a_key_makes_one_release_and_ids_count_up(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    assert [candidate(lake, key, ["a"]).id for key in ("k1", "k2", "k1")] == ["r-000001", "r-000002", "r-000001"]
    assert [manifest.id for manifest in releases(lake)] == ["r-000001", "r-000002"]
    with pytest.raises(LakeNotFound, match="r-000002"):
        read_release(lake, "r-000009")


def test_a_candidate_whose_vectors_have_seen_what_it_holds_out_is_not_recorded(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    with pytest.raises(LineageBroken, match=re.escape(f"the cutoff {CUTOFF.isoformat()} is too early")):
        candidate(lake, "late", ["a"], fit_cutoff=CUTOFF + timedelta(microseconds=1))
    assert releases(lake) == []
    assert candidate(lake, "in time", ["a"], fit_cutoff=CUTOFF).id == "r-000001"


def test_segments_have_seen_what_the_release_that_made_each_had_seen(tmp_path: Path) -> None:
    """Whatever a later release that lists them says; the latest of several counts."""
    lake, day = Lake(str(tmp_path)), timedelta(days=1)
    candidate(lake, "k1", ["a"], fit_cutoff=TIME)
    candidate(lake, "k2", ["a", "b"], fit_cutoff=TIME + day)
    candidate(lake, "k3", ["a", "b"], fit_cutoff=CUTOFF)
    seen = {names: fit_cutoff_of(lake, names) for names in (("a",), ("b",), ("a", "b"), ("b", "a"), ("z",), ())}
    assert seen == {
        ("a",): TIME,
        ("b",): TIME + day,
        ("a", "b"): TIME + day,
        ("b", "a"): TIME + day,
        ("z",): None,
        (): None,
    }


def test_a_blocked_candidate_is_not_published_and_stays_readable(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    made = candidate(lake, "k", ["a"], failed=True)
    with pytest.raises(GateBlocked, match="collapse"):
        publish(lake, made.id, WHO)
    assert published(lake) is None
    assert read_release(lake, made.id).blocked_by[0].name == "collapse"


def test_a_candidate_that_lacks_a_published_segment_is_stale_also_after_a_rollback(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one = candidate(lake, "one", ["a"])
    two = candidate(lake, "two", ["a", "b"])
    other = candidate(lake, "other", ["a", "c"])
    publish(lake, one.id, WHO)
    publish(lake, two.id, WHO)
    with pytest.raises(StaleCandidate, match="taken"):
        publish(lake, other.id, WHO)
    rollback(lake, WHO)
    assert published(lake).release == one.id  # type: ignore[union-attr]
    assert published_assignments(lake, "c1") == ["a", "b"]
    with pytest.raises(StaleCandidate):
        publish(lake, other.id, WHO)
    publish(lake, two.id, WHO)
    catching_up = r"Catch up with `sidmill run nightly --parent {}`"
    with pytest.raises(
        StaleCandidate, match=catching_up.format(one.id) + ".* `sidmill release rollback --to r-000001`"
    ):
        publish(lake, one.id, WHO)
    with pytest.raises(StaleCandidate, match=catching_up.format(other.id) + "(?!.*rollback)"):
        publish(lake, other.id, WHO)
    assert published(lake).release == two.id  # type: ignore[union-attr]


def test_a_night_goes_on_with_the_fit_of_the_newest_release_that_is_no_nights(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    first = candidate(lake, "one", ["a"], kind="bootstrap")
    nights = [candidate(lake, "two", ["a"], kind="nightly", parent=first.id)]
    nights.append(candidate(lake, "three", ["a"], kind="nightly", parent=nights[-1].id))
    again = candidate(lake, "four", ["a"], codebook="c2", kind="backfill", parent=nights[-1].id)
    later = candidate(lake, "five", ["a"], codebook="c2", kind="nightly", parent=again.id)
    assert [release_of_fit(lake, each).id for each in (first, *nights)] == [first.id] * 3
    assert [release_of_fit(lake, each).id for each in (again, later)] == [again.id] * 2


def test_the_fit_of_a_night_is_known_when_its_release_was_retired(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    made = [candidate(lake, "one", ["a"], kind="bootstrap")]
    publish(lake, made[0].id, WHO)
    for name in ("two", "three"):
        made.append(candidate(lake, name, ["a"], kind="nightly", parent=made[-1].id))
        publish(lake, made[-1].id, WHO)
    collect(lake, Policy(1, timedelta()), WHO, remove=True)
    with pytest.raises(Retired):
        read_release(lake, made[0].id)
    assert release_of_fit(lake, made[-1]) == made[0]


def test_a_new_codebook_must_cover_every_item_of_production(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    publish(lake, candidate(lake, "one", ["a", "b"]).id, WHO)
    partial = candidate(lake, "new", ["a"], codebook="c2")
    with pytest.raises(StaleCandidate, match=r"lacks 2 item.*--parent r-000002"):
        publish(lake, partial.id, WHO)
    publish(lake, candidate(lake, "caught-up", ["a", "b"], codebook="c2").id, WHO)
    assert published(lake).release == "r-000003"  # type: ignore[union-attr]


def test_the_model_is_kept_while_it_speaks_the_vocabulary_and_let_go_when_not(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one = candidate(lake, "one", ["a"])
    trained = model(lake, "m", one.id, "v-c1")
    assert publish(lake, one.id, WHO, trained).model == trained
    assert publish(lake, candidate(lake, "two", ["a", "b"]).id, WHO).model == trained
    new = candidate(lake, "three", ["a", "b"], codebook="c2")
    with pytest.raises(PublishRefused, match="vocabulary"):
        publish(lake, new.id, WHO, trained)
    with pytest.raises(PublishRefused, match=r"without a generator.*--without-model"):
        publish(lake, new.id, WHO)
    assert publish(lake, new.id, WHO, without_model=True).model is None
    assert rollback(lake, WHO).model == trained


def test_a_rollback_goes_only_to_what_was_published(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    with pytest.raises(LakeNotFound):
        rollback(lake, WHO)
    publish(lake, candidate(lake, "one", ["a"]).id, WHO)
    candidate(lake, "two", ["a", "b"])
    with pytest.raises(
        PublishRefused, match=r"no other release was ever published.*release publish r-000001 --model MODEL"
    ):
        rollback(lake, WHO, to="r-000002")


def test_each_rollback_goes_further_back_and_never_to_what_was_rolled_away_from(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two, three = (candidate(lake, key, ["a"]).id for key in ("one", "two", "three"))
    for release in (one, two, three):
        publish(lake, release, WHO)
    assert [rollback(lake, WHO).release for _ in range(2)] == [two, one]
    with pytest.raises(PublishRefused, match=f"cannot roll 'production' back from {one}.*{two}, {three}"):
        rollback(lake, WHO)
    publish(lake, three, WHO)
    assert rollback(lake, WHO).release == one
    assert rollback(lake, WHO, to=two).release == two
    moves = lake.version("pointers")
    assert rollback(lake, WHO, to=two).release == two
    assert lake.version("pointers") == moves


def test_a_release_is_published_with_the_newest_model_that_was_trained_for_it(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    publish(lake, candidate(lake, "one", ["a"]).id, WHO, model(lake, "k1", "r-000001", "v-c1"))
    new = candidate(lake, "two", ["a"], codebook="c2").id
    for key in ("k2", "k3"):
        trained = model(lake, key, new, "v-c2")
    assert publish(lake, new, WHO).model == trained == "m-000003"
    assert publish(lake, candidate(lake, "three", ["a"], codebook="c2").id, WHO).model == "m-000003"
    assert rollback(lake, WHO, to="r-000001").model == "m-000001"


def test_a_model_that_was_put_back_in_place_of_a_newer_one_stays(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two = candidate(lake, "one", ["a"]).id, candidate(lake, "two", ["a", "b"]).id
    old, new = (model(lake, key, one, "v-c1") for key in ("k1", "k2"))
    assert not was_published(lake, new)
    assert publish(lake, one, WHO).model == new
    assert was_published(lake, new)
    assert publish(lake, one, WHO, old).model == old
    assert publish(lake, one, WHO).model == old
    assert publish(lake, two, WHO).model == old
    newest = model(lake, "k3", two, "v-c1")
    assert publish(lake, two, WHO).model == newest
    assert rollback(lake, WHO) == Published(one, old)
    assert publish(lake, two, WHO).model == newest


def test_who_decided_on_what_is_published_no_more_moves_nothing(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two = candidate(lake, "one", ["a"]), candidate(lake, "two", ["a", "b"])
    trained = model(lake, "m", one.id, "v-c1")
    publish(lake, one.id, WHO)
    before = read_pointer(lake, "production")
    publish(lake, two.id, WHO)
    with pytest.raises(PointerMoved, match=two.id):
        publish_by_run(lake, Publication(one.id, "train", trained), before, WHO)
    assert published(lake) == Published(two.id, trained)


def test_a_release_shows_what_was_found_on_it_and_not_on_another(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two = candidate(lake, "one", ["a"]), candidate(lake, "two", ["a", "b"])
    trained = model(lake, "m", one.id, "v-c1")
    for key, release, cases in (("first", one.id, 1), ("again", one.id, 2), ("other", two.id, 3)):
        record_evaluation(lake, key, trained, release, EvaluationResult({}, {}, cases, 0, 0), WHO)
    found = {
        release: [(row.id, row.evaluation and row.evaluation.cases) for row in models_of(lake, release)]
        for release in (one.id, two.id)
    }
    assert found == {one.id: [(trained, 2)], two.id: [(trained, 3)]}
    assert models(lake)[0].evaluation == EvaluationResult({}, {}, 3, 0, 0)


@pytest.mark.parametrize("publishes", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_a_tight_loop_reader_sees_no_mix_during_publishes(tmp_path: Path, publishes: int) -> None:
    """Whatever the reader resolves is one manifest: release, trie and segments always belong together."""
    lake = Lake(str(tmp_path))
    made = [candidate(lake, f"k{number}", ["a"]) for number in range(2)]
    whole = {manifest.id: manifest.model_dump_json() for manifest in made}
    publish(lake, made[0].id, WHO)
    over, seen, mixed = threading.Event(), set(), []

    def read() -> None:
        while not over.is_set():
            manifest = read_release(lake, "production")
            seen.add(manifest.id)
            if manifest.model_dump_json() != whole[manifest.id]:
                mixed.append(manifest.id)

    readers = [threading.Thread(target=read) for _ in range(1)]
    for reader in readers:
        reader.start()
    for number in range(publishes):
        publish(lake, made[(number + 1) % 2].id, WHO)
    over.set()
    for reader in readers:
        reader.join()
    assert mixed == []
    assert seen == set(whole)


def test_a_run_with_nothing_to_do_leaves_no_trace_and_a_killed_one_shows(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    idle = RunRecord(lake, "nightly-1", "nightly", "r", {})
    idle.stage("ingest", {"seconds": 1})
    idle.end("finished", {})
    assert runs(lake) == []
    worked = RunRecord(lake, "nightly-2", "nightly", "r", {"items": ["x"]})
    worked.stage("ingest", {"seconds": 1})
    worked.begin()
    worked.stage("embed", {"seconds": 2})
    assert read_run(lake, "nightly-2").state == "running"
    worked.end("finished", {"release": "r"})
    found = read_run(lake, "nightly-2")
    assert (found.state, [stage.name for stage in found.stages]) == ("finished", ["ingest", "embed"])
    assert found.parameters == {"items": ["x"]}
    gone = {"parameters": {}, "host": __import__("socket").gethostname(), "pid": 2**22 + 1}
    row = {"run": "gone", "kind": "train", "event": "started", "name": "train", "detail": json.dumps(gone)}
    rows = pa.Table.from_pylist([{**row, "at": TIME + timedelta(days=1)}], schema=lake_schema())
    append(lake, "runs", rows, "gone", WHO)
    assert read_run(lake, "gone").state == "killed"


def lake_schema() -> pa.Schema:
    from storage.schemas import RUNS

    return RUNS.schema
