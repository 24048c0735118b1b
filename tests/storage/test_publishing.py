"""Runs and commands that move an alias, those that must not, and the message to the latter."""

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_releases import TIME, WHO, candidate, gate, model, publish

from storage.errors import (
    BlobCorrupt,
    GateBlocked,
    LakeError,
    LakeNotFound,
    LineageBroken,
    PointerMoved,
    ProductionHeld,
    PublishRefused,
    StaleCandidate,
)
from storage.lake import Lake
from storage.releases.evaluation import Comparison, EvaluationResult, Verdict
from storage.releases.manifest import Manifest
from storage.releases.models import record_evaluation
from storage.releases.pointers import Pointer, Published, pointer_history, read_pointer
from storage.releases.publishing import (
    Publication,
    held,
    hold,
    hold_of,
    is_earlier,
    lift,
    publish_by_run,
    rollback,
    was_published,
)
from storage.releases.releases import find_release_by_key, published, read_release

DAY = timedelta(days=1)


def by_run(lake: Lake, release: str, decided_on: Pointer | None = None) -> Published:
    return publish_by_run(lake, Publication(release, "nightly"), decided_on or read_pointer(lake, "production"), WHO)


def lift_it(lake: Lake) -> object:
    return lift(lake, WHO)


def publish_it(lake: Lake) -> object:
    return publish(lake, "r-000001", WHO)


@pytest.mark.parametrize("end", [lift_it, publish_it])
@pytest.mark.parametrize(("reason", "told"), [("counting stock", r" \(counting stock\), so"), ("", " UTC, so")])
def test_while_an_alias_is_held_runs_do_not_move_it_until_somebody_lifts_the_hold_or_publishes(
    tmp_path: Path, end: Callable[[Lake], object], reason: str, told: str
) -> None:
    lake = Lake(str(tmp_path))
    one, two = candidate(lake, "one", ["a"]).id, candidate(lake, "two", ["a", "b"]).id
    assert by_run(lake, one) == Published(one, None)
    assert held(lake) is None
    hold(lake, WHO, reason)
    with pytest.raises(
        ProductionHeld,
        match=f"'?production'? has been held at {one} since 2.*{told} runs do not move it.*{two} stays a",
    ):
        by_run(lake, two)
    with pytest.raises(
        ProductionHeld, match=rf"release publish {two}` publishes it now; `sidmill release hold --lift`"
    ):
        by_run(lake, two)
    assert published(lake) == Published(one, None)
    end(lake)
    assert held(lake) is None
    assert by_run(lake, two).release == two


def test_a_rollback_holds_what_it_went_back_to(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two = candidate(lake, "one", ["a"]).id, candidate(lake, "two", ["a", "b"]).id
    for release in (one, two):
        publish(lake, release, WHO)
    rollback(lake, WHO)
    assert re.match(f"production was rolled back to {one} on 2.* UTC, so runs", held(lake) or "")
    with pytest.raises(ProductionHeld):
        by_run(lake, two)
    assert lift(lake, WHO) is True
    assert published(lake) == Published(one, None), "lifting the hold goes nowhere"
    assert lift(lake, WHO) is False, "nothing holds it any more"
    assert by_run(lake, two).release == two


def test_holding_and_lifting_leave_the_alias_where_it_is(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two = candidate(lake, "one", ["a"]).id, candidate(lake, "two", ["a", "b"]).id
    for release in (one, two):
        publish(lake, release, WHO)
    hold(lake, WHO)
    assert published(lake) == Published(two, None)
    lift(lake, WHO)
    assert published(lake) == Published(two, None)
    assert [move.note for move in pointer_history(lake, "production")[3:]] == ["hold", "lift"]


def test_a_note_that_only_begins_like_a_hold_holds_nothing(tmp_path: Path) -> None:
    moved = Pointer("production", 1, {"release": "r-000001", "model": None}, "holding", TIME)
    assert hold_of([moved]) is None
    assert hold_of([Pointer("production", 0, None)]) is None


def test_what_was_never_published_cannot_be_held_and_has_no_hold_to_lift(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    candidate(lake, "one", ["a"])
    for act in (hold, rollback):
        with pytest.raises(LakeNotFound, match="'production' points to nothing yet; publish a release first"):
            act(lake, WHO)
    assert lift(lake, WHO) is False
    assert held(lake) is None
    assert pointer_history(lake, "production") == [Pointer("production", 0, None)]


def test_publishing_what_is_published_writes_nothing(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one = candidate(lake, "one", ["a"]).id
    for _ in range(2):
        assert publish(lake, one, WHO) == Published(one, None)
    assert [move.note for move in pointer_history(lake, "production")[1:]] == ["publish"]
    hold(lake, WHO)
    publish(lake, one, WHO)
    assert [move.note for move in pointer_history(lake, "production")[1:]] == ["publish", "hold", "publish"]


def test_a_run_moves_only_what_it_read_and_an_alias_of_its_own_moves_alone(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two = candidate(lake, "one", ["a"]).id, candidate(lake, "two", ["a", "b"]).id
    unset = read_pointer(lake, "production")
    publish(lake, one, WHO, alias="canary")
    assert (published(lake), published(lake, "canary")) == (None, Published(one, None))
    assert by_run(lake, two, unset) == Published(two, None)
    with pytest.raises(PointerMoved, match=rf"was unset when this run read it and is \({two}, no model\) now"):
        by_run(lake, one, unset)
    publish(lake, two, WHO, alias="canary")
    assert rollback(lake, WHO, alias="canary") == Published(one, None)
    assert published(lake) == Published(two, None)


def test_what_is_damaged_is_not_published_nor_rolled_back_to(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two = candidate(lake, "one", ["a"]), candidate(lake, "two", ["a"])
    trained = model(lake, "m", one.id, "v-c1")
    for release in (one.id, two.id):
        publish(lake, release, WHO)
    Path(lake.blobs.location(one.trie.sha256)).write_bytes(b"other bytes")
    for move in (lambda: rollback(lake, WHO), lambda: by_run(lake, one.id)):
        with pytest.raises(BlobCorrupt):
            move()
    assert published(lake) == Published(two.id, trained)
    lake.blobs.put(b"one")
    Path(lake.blobs.location(lake.blobs.put(b"weights"))).write_bytes(b"other bytes")
    with pytest.raises(BlobCorrupt):
        rollback(lake, WHO)
    assert published(lake) == Published(two.id, trained)


def test_each_failed_gate_that_blocks_is_told_and_one_that_warns_blocks_nothing(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    bad = [gate(False), gate(True, name="fine"), gate(False, "warn", "warned"), gate(False, name="moved", detail="x")]
    made = candidate(lake, "bad", ["a"], gates=bad)
    with pytest.raises(GateBlocked) as refused:
        publish(lake, made.id, WHO)
    assert "collapse = 1 (limit 0); moved = 1 (limit 0) x." in str(refused.value)
    warned = candidate(lake, "warned", ["a"], gates=[gate(False, "warn"), gate(True)])
    assert publish(lake, warned.id, WHO).release == warned.id


times = st.integers(-1, 2)


@given(before=st.tuples(times, times, times), after=st.tuples(times, times, times), known=st.booleans())
def test_a_release_is_of_an_earlier_time_where_catalogue_or_log_or_as_of_time_goes_back(
    before: tuple[int, int, int], after: tuple[int, int, int], known: bool
) -> None:
    """A table that a release does not name is of version -1; equal is not earlier."""
    sides = []
    for items, log, day in (after, before):
        versions = {"items": items, "sids": 7 - items, **({"interactions": log} if known or log >= 0 else {})}
        sides.append(Manifest.model_construct(versions=versions, as_of=TIME + day * DAY))
    told = is_earlier(*sides)
    expected = [new < old for new, old in zip(after, before, strict=True)]
    late, early = (f"{TIME + days[2] * DAY:%Y-%m-%d %H:%M:%S} UTC" for days in (after, before))
    every = [
        f"version {after[0]} of table items instead of {before[0]}",
        f"version {after[1] if known or after[1] >= 0 else 'none'} of table interactions instead of {before[1]}",
        f"as of {late} instead of {early}",
    ]
    assert told == [line for line, is_so in zip(every, expected, strict=True) if is_so]


def test_what_was_published_and_is_of_an_earlier_time_is_gone_back_to_by_a_rollback(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one = candidate(lake, "one", ["a"]).id
    two = candidate(lake, "two", ["a"], as_of=TIME + DAY).id
    for release in (one, two):
        publish(lake, release, WHO)
    with pytest.raises(StaleCandidate, match=f"as of 2024-01-01 00:00:00 UTC instead of.*release rollback --to {one}`"):
        publish(lake, one, WHO)
    assert rollback(lake, WHO, to=one).release == one


def test_a_candidate_that_goes_back_behind_its_parent_is_not_recorded(tmp_path: Path) -> None:
    """A table that a release does not name is of version -1, of which a lake without the table is too."""
    lake, later = Lake(str(tmp_path)), TIME + DAY
    versions = {"items": 1, "interactions": 0, "checksums": -1}
    parent = candidate(lake, "parent", ["a"], versions=versions, as_of=later)
    for earlier, as_of, told in (
        ({"items": 0, "interactions": 0}, later, "in an earlier version: items"),
        ({"items": 1}, later, "in an earlier version: interactions"),
        ({"items": 1, "interactions": 0}, TIME, "in an earlier version: none"),
    ):
        with pytest.raises(LineageBroken, match=rf"earlier than its parent {parent.id}.*{told}"):
            candidate(lake, "child", ["a"], versions=earlier, as_of=as_of, parent=parent.id)
    candidate(lake, "other", ["a"], versions={"items": 9, "interactions": 9}, as_of=TIME + 9 * DAY)
    same = {"items": 1, "interactions": 0}
    child = candidate(lake, "child", ["a"], versions=same, as_of=later, parent=parent.id)
    assert find_release_by_key(lake, "child") == child == read_release(lake, child.id)
    assert find_release_by_key(lake, "nobody's") is None


def test_a_name_that_is_no_release_is_told_with_the_newest_there_are_and_how_to_make_one(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    with pytest.raises(LakeNotFound, match=r"releases: none\. Make the first one with `sidmill run bootstrap`"):
        read_release(lake, "production")
    for number in range(12):
        candidate(lake, f"k{number}", ["a"])
    with pytest.raises(LakeNotFound, match=r"no release or alias 'canary'; newest releases: r-000003, .*, r-000012\.$"):
        read_release(lake, "canary")
    publish(lake, "r-000002", WHO, alias="canary")
    assert read_release(lake, "canary").id == "r-000002"


def found_worse(lake: Lake, key: str, trained: str, release: str, verdict: Verdict) -> None:
    against = {"popularity": Comparison(10, 0.0, [0.0, 0.0], 0, 0, verdict)}
    record_evaluation(lake, key, trained, release, EvaluationResult({}, against, 9, 0, 0), WHO)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_model_that_is_worse_than_a_baseline_is_chosen_only_where_its_release_lets_it(
    tmp_path: Path, allowed: bool
) -> None:
    lake = Lake(str(tmp_path))
    one = candidate(lake, "one", ["a"]).id
    good, worse = model(lake, "k1", one, "v-c1"), model(lake, "k2", one, "v-c1")
    found_worse(lake, "e1", good, one, "not told apart")
    found_worse(lake, "e2", worse, one, "is worse")
    choice = publish(lake, one, WHO, may_be_worse=lambda manifest: allowed and manifest.id == one)
    assert choice == Published(one, worse if allowed else good)
    assert publish(lake, one, WHO, worse) == Published(one, worse), "a person may"
    assert was_published(lake, worse)
    assert was_published(lake, good) != allowed


def test_a_release_is_left_without_its_model_only_where_somebody_says_so(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one = candidate(lake, "one", ["a"]).id
    trained = model(lake, "k1", one, "v-c1")
    assert publish(lake, one, WHO, without_model=True) == Published(one, None)
    assert publish(lake, one, WHO) == Published(one, trained)
    assert publish(lake, one, WHO, trained, without_model=True) == Published(one, trained), "a model that is named wins"
    other = candidate(lake, "two", ["a"], codebook="c2").id
    with pytest.raises(
        PublishRefused, match=f"{other} would leave 'production' without a generator: {trained} was trained"
    ):
        publish(lake, other, WHO)
    assert publish(lake, other, WHO, without_model=True) == Published(other, None)
    assert publish(lake, other, WHO) == Published(other, None), "there is no model that it could lose"


def test_a_run_that_says_nothing_of_models_leaves_production_the_one_it_has(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two = candidate(lake, "one", ["a"]).id, candidate(lake, "two", ["a", "b"]).id
    trained = model(lake, "k1", one, "v-c1")
    for release in (one, two):
        assert by_run(lake, release) == Published(release, trained)
    other = candidate(lake, "three", ["a", "b"], codebook="c2").id
    with pytest.raises(PublishRefused, match="without a generator"):
        by_run(lake, other)


def test_what_was_published_again_is_gone_back_from_to_what_was_there_in_between(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two, three = (candidate(lake, key, ["a"]).id for key in ("one", "two", "three"))
    for release in (one, two, one):
        publish(lake, release, WHO)
    assert rollback(lake, WHO).release == two
    publish(lake, three, WHO)
    assert [rollback(lake, WHO).release for _ in range(2)] == [two, one]
    assert rollback(lake, WHO, to=three).release == three, "also to what was rolled away from"
    assert rollback(lake, WHO).release == one


def test_a_rollback_to_what_had_no_model_takes_the_newest_that_was_trained_for_it(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two = candidate(lake, "one", ["a"]).id, candidate(lake, "two", ["a"]).id
    publish(lake, one, WHO)
    publish(lake, two, WHO)
    trained = model(lake, "k1", one, "v-c1")
    assert rollback(lake, WHO) == Published(one, trained)


def test_what_cannot_be_rolled_back_to_is_told_with_what_can(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    one, two, three = (candidate(lake, key, ["a"]).id for key in ("one", "two", "three"))
    for release in (two, one, two):
        publish(lake, release, WHO)
    with pytest.raises(
        PublishRefused,
        match=f"back from {two} to {three}: choose .* `--to RELEASE`: {one}\\..*publish {two} --mod",
    ):
        rollback(lake, WHO, to=three)
    assert isinstance(PublishRefused("x"), LakeError)


def test_stale_candidates_are_told_with_what_they_lack(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    many = candidate(lake, "one", ["a", "b", "c", "d"])
    few = candidate(lake, "two", ["e"])
    other = candidate(lake, "three", ["b"], codebook="c2")
    publish(lake, many.id, WHO)
    with pytest.raises(
        StaleCandidate, match=r"lacks 4 assignment\(s\) that were published under its codebook .*\(a, b, c\)"
    ):
        publish(lake, few.id, WHO)
    with pytest.raises(StaleCandidate, match=rf"lacks 6 item\(s\) of {many.id} \(for example 'a0'\)"):
        publish(lake, other.id, WHO)
