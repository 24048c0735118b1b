"""The log loader: each positive event once an epoch, for any worker count, from any cursor."""

from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.errors import CheckpointMismatch
from learning.trainable import Cursor
from training.data.events import OF_ONE_EVENT, SHOWN
from training.data.histories import Batch, Plan, Pool, Windows, _pools, batches, cut, read_pool, window_rows
from training.errors import SequencesInvalid

SIZES = (5, 7)


START = datetime(2026, 1, 1)


def bucket_table(bucket: int, lengths: list[int], seed: int) -> pa.Table:
    """One bucket with a user per entry of `lengths`; about a third of the events is negative."""
    rng = np.random.default_rng([seed, bucket])
    rows = [(user, event) for user, length in enumerate(lengths) for event in range(length)]
    kinds = rng.integers(0, 6, len(rows))
    return pa.table(
        {
            "bucket": pa.array([bucket] * len(rows), pa.int32()),
            "user_id": pa.array([f"u{bucket}-{user:03d}" for user, _ in rows], pa.string()),
            "event_id": pa.array([f"e{bucket}-{user}-{event}" for user, event in rows], pa.string()),
            "event_time": pa.array([START + timedelta(seconds=event) for _, event in rows], pa.timestamp("us")),
            "event_type": pa.array(["impression" if kind == 0 else "click" for kind in kinds], pa.string()),
            "impression": pa.array([{1: True, 2: None}.get(int(kind), False) for kind in kinds], pa.bool_()),
            "codes": pa.array([rng.integers(0, SIZES).tolist() for _ in rows], pa.list_(pa.int32())),
        }
    )


class Buckets:
    """Bucket tables as the loader reads them."""

    def __init__(self, users: list[list[int]], seed: int = 0) -> None:
        self.tables = [bucket_table(bucket, lengths, seed) for bucket, lengths in enumerate(users)]

    def __call__(self, bucket: int) -> pa.Table:
        return self.tables[bucket]

    def positives(self) -> list[str]:
        """Ids of the events to be predicted, by a plain loop."""
        return [
            row["event_id"]
            for table in self.tables
            for row in table.to_pylist()
            if row["event_type"] != "impression" and not row["impression"]
        ]


def plan_of(buckets: Buckets, **changes: object) -> Plan:
    values = {"source": "s", "buckets": len(buckets.tables), "sizes": SIZES, "batch_size": 4, "max_events": 6}
    return Plan(**(values | changes))  # type: ignore[arg-type]


def read(plan: Plan, buckets: Buckets, world: int, cursor: Cursor | None = None) -> list[list[tuple[Batch, Cursor]]]:
    cursor = cursor or Cursor(plan.hash)
    return [list(batches(plan, buckets, rank, world, cursor)) for rank in range(world)]


def event_ids(ranks: list[list[tuple[Batch, Cursor]]]) -> list[str]:
    return [event for rank in ranks for batch, _ in rank for event in batch.event_ids.to_pylist()]


users_per_bucket = st.lists(st.lists(st.integers(1, 25), max_size=5), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(users=users_per_bucket, world=st.integers(1, 3), max_events=st.integers(2, 9), epoch=st.integers(0, 3))
def test_every_positive_event_is_predicted_once_an_epoch(
    users: list[list[int]], world: int, max_events: int, epoch: int
) -> None:
    buckets = Buckets(users)
    plan = plan_of(buckets, max_events=max_events)
    ranks = read(plan, buckets, world, Cursor(plan.hash, epoch))
    assert Counter(event_ids(ranks)) == Counter(buckets.positives())


@settings(max_examples=25, deadline=None)
@given(users=users_per_bucket, world=st.integers(2, 4))
def test_another_worker_count_takes_the_same_steps(users: list[list[int]], world: int) -> None:
    buckets = Buckets(users)
    plan = plan_of(buckets)
    (alone,) = read(plan, buckets, 1)
    ranks = read(plan, buckets, world)
    assert [len(rank) for rank in ranks] == [len(alone)] * world
    for step, (whole, cursor) in enumerate(alone):
        shares = [rank[step] for rank in ranks]
        assert Counter(event_ids([shares])) == Counter(whole.event_ids.to_pylist())
        assert {share.step_targets for share, _ in shares} == {whole.step_targets} == {len(whole.event_ids)}
        assert {after for _, after in shares} == {cursor}


def test_a_cursor_continues_exactly_where_it_stood() -> None:
    buckets = Buckets([[20, 3, 9], [14], [8, 8]])
    plan = plan_of(buckets)
    (whole,) = read(plan, buckets, 1)
    for stopped in range(len(whole)):
        rest = read(plan, buckets, 2, whole[stopped][1])
        expected = Counter(event for batch, _ in whole[stopped + 1 :] for event in batch.event_ids.to_pylist())
        assert Counter(event_ids(rest)) == expected


def test_a_pool_ends_where_enough_windows_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.histories.SHUFFLE_WINDOWS", 5)
    buckets = Buckets([[20, 3, 9], [14], [8, 8], [30]])
    plan = plan_of(buckets)
    (whole,) = read(plan, buckets, 1)
    assert Counter(event_ids([whole])) == Counter(buckets.positives())
    rest = read(plan, buckets, 3, whole[3][1])
    assert Counter(event_ids(rest)) == Counter(event_ids([whole[4:]]))


@given(
    users=users_per_bucket,
    most=st.integers(1, 60),
    fresh=st.booleans(),
)
def test_a_pool_holds_a_bucket_more_than_it_may_at_most(users: list[list[int]], most: int, fresh: bool) -> None:
    """Also where hardly an event is a target: few windows, and users with long histories."""
    buckets = Buckets(users)
    buckets.tables = [
        table.append_column("fresh", pa.array([row == 0 for row in range(table.num_rows)], pa.bool_()))
        for table in buckets.tables
    ]
    plan = plan_of(buckets, fresh_only=fresh)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.data.histories.SHUFFLE_EVENTS", most)
        held = [len(pool.codes) for pool, _ in _pools(plan, buckets, 0)]
        (whole,) = read(plan, buckets, 1)
    assert sum(held) == sum(table.num_rows for table in buckets.tables)
    assert max(held) < most + max(table.num_rows for table in buckets.tables)
    wanted = [each for each in buckets.positives() if not fresh or each.endswith("-0-0")]
    assert Counter(event_ids([whole])) == Counter(wanted)


def test_seed_and_epoch_change_the_order_and_nothing_else_does() -> None:
    buckets = Buckets([[9] * 6, [7] * 6])
    plan, other = plan_of(buckets), plan_of(buckets, seed=1)
    first = event_ids(read(plan, buckets, 1))
    assert event_ids(read(plan, buckets, 1)) == first
    assert event_ids(read(plan, buckets, 1, Cursor(plan.hash, 1))) != first
    assert event_ids(read(other, buckets, 1)) != first


@pytest.mark.parametrize("positive_only", [False, True])
def test_events_are_those_of_the_window_in_time_order(positive_only: bool) -> None:
    buckets = Buckets([[10, 4]])
    plan = plan_of(buckets, batch_size=1, positive_only=positive_only, behaviours=("click",))
    rows = [row for row in buckets(0).to_pylist() if not (positive_only and shown(row))]
    by_id = {row["event_id"]: index for index, row in enumerate(rows)}
    assert Counter(event_ids(read(plan, buckets, 1))) == Counter(buckets.positives())
    for batch, _ in read(plan, buckets, 1)[0]:
        last = by_id[batch.event_ids[-1].as_py()]
        place = int(torch.nonzero(batch.targets[0]).max())
        for event in range(place + 1):
            row = rows[last - place + event]
            assert batch.events.codes[0, event].tolist() == row["codes"]
            assert batch.events.kinds[0, event] == (SHOWN if shown(row) else OF_ONE_EVENT)
            assert not (shown(row) and batch.targets[0, event])


def shown(row: dict[str, object]) -> bool:
    return row["event_type"] == "impression" or bool(row["impression"])


def test_only_fresh_events_are_targets_of_a_training_that_goes_on() -> None:
    buckets = Buckets([[10, 4], [8]])
    fresh = [table.num_rows // 2 for table in buckets.tables]
    marked = [
        pa.array([row >= half for row in range(table.num_rows)])
        for table, half in zip(buckets.tables, fresh, strict=True)
    ]
    buckets.tables = [t.append_column("fresh", column) for t, column in zip(buckets.tables, marked, strict=True)]
    wanted = [r["event_id"] for t in buckets.tables for r in t.to_pylist() if r["fresh"] and not shown(r)]
    assert Counter(event_ids(read(plan_of(buckets, fresh_only=True), buckets, 2))) == Counter(wanted)


def test_one_target_ends_each_window() -> None:
    buckets = Buckets([[20, 3], [9]])
    ranks = read(plan_of(buckets, one_target=True), buckets, 2)
    assert Counter(event_ids(ranks)) == Counter(buckets.positives())
    for batch, _ in (each for rank in ranks for each in rank):
        lengths = batch.events.lengths
        assert (batch.targets.sum(dim=1) == (lengths > 0)).all()
        assert all(batch.targets[row, length - 1] for row, length in enumerate(lengths.tolist()) if length)


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    shown_share=st.floats(0, 1),
    long_events=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_long_term_events_are_spread_over_the_positive_ones_before(
    lengths: list[int], shown_share: float, long_events: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    users = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    kinds = (draw.random(users[-1]) < shown_share).astype(np.int64)
    pool = Pool(np.zeros((len(kinds), 2), np.int32), kinds, kinds == 0, pa.nulls(len(kinds), pa.string()), users)
    start = np.array([draw.integers(a, b + 1) for a, b in pairwise(users)])
    stop = np.array([draw.integers(a, b + 1) for a, b in zip(start, users[1:], strict=True)])
    rows, counts = window_rows(pool, Windows(users[:-1], start, stop, stop), long_events)
    for user, (first, a, b) in enumerate(zip(users[:-1], start, stop, strict=True)):
        before = [row for row in range(first, a) if kinds[row] != SHOWN]
        some = min(long_events, len(before))
        spread = [before[(2 * at + 1) * len(before) // (2 * some)] for at in range(some)]
        assert rows[user, : counts[user]].tolist() == [*spread, *range(a, b)]
        assert not rows[user, counts[user] :].any()


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6), max_events=st.integers(2, 16))
def test_late_targets_have_half_a_window_of_context(lengths: list[int], max_events: int) -> None:
    users = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    windows = cut(users, np.ones(users[-1], dtype=bool), max_events)
    owner = np.searchsorted(users, windows.start, side="right") - 1
    assert ((windows.stop - windows.start) <= max_events).all()
    assert (windows.stop <= users[owner + 1]).all()
    context = windows.predict - windows.start
    assert ((context >= max_events - max_events // 2) | (windows.start == users[owner])).all()
    predicted = sorted(row for a, b in zip(windows.predict, windows.stop, strict=True) for row in range(a, b))
    assert predicted == list(range(users[-1]))


@pytest.mark.parametrize("one_target", [False, True])
def test_a_user_of_10_000_events_is_read_in_windows_that_stay_small(one_target: bool) -> None:
    buckets, most = Buckets([[10_000, 3, 50]]), 20
    plan = plan_of(buckets, batch_size=64, max_events=most, long_events=8, one_target=one_target)
    pool = read_pool(buckets(0), plan, "")
    windows = cut(pool.users, pool.wanted, most, one_target)
    assert len(windows) <= (pool.wanted.sum() if one_target else 1 + 10_000 / (most // 2) + 6)
    assert ((windows.stop - windows.start) <= most).all()
    # What is held is the bucket, once, and a batch: no window holds more than its events and the long-term ones.
    found, places = Counter(), 0
    for batch, _ in read(plan, buckets, 1)[0]:
        found.update(batch.event_ids.to_pylist())
        assert batch.events.codes.shape[1] <= most + 8
        places += batch.targets.numel()
    assert found == Counter(buckets.positives())
    assert places <= len(windows) * (most + 8)


def test_a_cursor_of_another_plan_is_refused() -> None:
    buckets = Buckets([[5]])
    with pytest.raises(CheckpointMismatch, match="from the beginning"):
        next(batches(plan_of(buckets, seed=1), buckets, 0, 1, Cursor(plan_of(buckets).hash)))


def test_rows_out_of_order_are_refused() -> None:
    table = bucket_table(0, [4, 4], 0)
    for order in ([1, 0, *range(2, 8)], [0, 4, 1, 5, 2, 3, 6, 7]):
        shuffled = table.take(order)
        plan = Plan("r-1", 1, SIZES, 4, 6)
        with pytest.raises(SequencesInvalid, match=r"r-1 bucket 0: rows are not sorted"):
            next(batches(plan, lambda _, shuffled=shuffled: shuffled, 0, 1, Cursor(plan.hash)))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((5, 7, 3), "3 levels"), ((5, 2), "another codebook"), ((5, 6), "another codebook"), ((4, 7), "another codebook")],
)
def test_codes_of_another_codebook_are_refused(sizes: tuple[int, ...], message: str) -> None:
    table = bucket_table(0, [60], 0)  # so many that each code of each level occurs
    plan = Plan("r-1", 1, sizes, 4, 6)
    with pytest.raises(SequencesInvalid, match=message):
        next(batches(plan, lambda _: table, 0, 1, Cursor(plan.hash)))


def test_padding_stands_on_the_right_and_is_never_a_target() -> None:
    buckets = Buckets([[6, 2, 1]])
    ((batch, _),) = read(plan_of(buckets, batch_size=8), buckets, 1)[0]
    padding = torch.arange(batch.targets.shape[1]) >= batch.events.lengths[:, None]
    assert not (batch.targets & padding).any()
    assert not batch.events.codes[padding].any()


def test_little_is_padding_where_lengths_differ_much() -> None:
    lengths = np.random.default_rng(0).geometric(0.1, 4000).clip(1, 60).tolist()
    buckets = Buckets([lengths[:2000], lengths[2000:]])
    (steps,) = read(plan_of(buckets, batch_size=64, max_events=50), buckets, 1)
    real = sum(int(batch.events.lengths.sum()) for batch, _ in steps)
    assert real / sum(batch.targets.numel() for batch, _ in steps) >= 0.9
