"""Windows of histories, against plain loops."""

import hashlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_histories import SIZES, START, Buckets, bucket_table, event_ids, plan_of, read, shown, users_per_bucket

from learning.trainable import Cursor
from training.data.histories import Plan, _pools, cut, read_pool


def test_samples_come_in_the_order_that_cursors_of_stored_checkpoints_count_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cursor is a number of samples: in another order it would stand elsewhere, and no error would tell."""
    monkeypatch.setattr("training.data.histories.SHUFFLE_EVENTS", 60)
    monkeypatch.setattr("training.data.histories.SORTED_STEPS", 3)
    buckets = Buckets([[20, 3, 9, 1], [14, 2], [8, 8, 30], [5] * 6])
    plan = plan_of(buckets, seed=3)
    assert plan.hash == "00a8b56d28a2097c"
    (alone,) = read(plan, buckets, 1, Cursor(plan.hash, 2))
    order = hashlib.sha256("\n".join(event_ids([alone])).encode()).hexdigest()[:16]
    assert order == "1e55858a54f24a8e"
    assert [cursor.sample for _, cursor in alone][-1] == sum(len(batch.events.lengths) for batch, _ in alone)


@settings(max_examples=20, deadline=None)
@given(users=users_per_bucket, batch_size=st.integers(1, 5), events=st.integers(1, 40))
def test_steps_are_full_but_one_of_each_pool_and_cursors_count_their_samples(
    users: list[list[int]], batch_size: int, events: int
) -> None:
    buckets = Buckets(users)
    plan = plan_of(buckets, batch_size=batch_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.data.histories.SHUFFLE_EVENTS", events)
        pools = [[len(step) for step in steps] for _, steps in _pools(plan, buckets, 0)]
        (alone,) = read(plan, buckets, 1)
    for steps in pools:
        windows = sum(steps)
        rest = [windows % batch_size] if windows % batch_size else []
        assert sorted(steps, reverse=True) == [batch_size] * (windows // batch_size) + rest
    samples = np.cumsum([size for steps in pools for size in steps]).tolist()
    assert [cursor.sample for _, cursor in alone] == samples
    assert {(cursor.plan, cursor.epoch) for _, cursor in alone} <= {(plan.hash, 0)}


@given(users=users_per_bucket, max_events=st.integers(1, 9), one_target=st.booleans())
def test_windows_are_those_of_a_plain_loop(users: list[list[int]], max_events: int, one_target: bool) -> None:
    buckets = Buckets(users)
    plan = plan_of(buckets, max_events=max_events)
    pool = read_pool(buckets(0), plan, "")
    expected = []
    stride = max(1, max_events // 2)
    for first, end in pairwise(pool.users.tolist()):
        if one_target:
            wanted = [row for row in range(first, end) if pool.wanted[row]]
            expected += [(first, max(first, row + 1 - max_events), row + 1, row) for row in wanted]
            continue
        predict, stop = first, min(end, first + max_events)
        while True:
            if pool.wanted[predict:stop].any():
                expected.append((first, max(first, stop - max_events), stop, predict))
            if stop == end:
                break
            predict, stop = stop, min(end, stop + stride)
    found = cut(pool.users, pool.wanted, max_events, one_target)
    if not one_target:
        plain = cut(pool.users, pool.wanted, max_events)
        assert (plain.start.tolist(), plain.stop.tolist()) == (found.start.tolist(), found.stop.tolist())
    columns = (found.first, found.start, found.stop, found.predict)
    assert list(zip(*(each.tolist() for each in columns), strict=True)) == expected


@given(users=users_per_bucket, fresh=st.booleans())
def test_a_model_that_reads_only_what_was_more_than_shown_reads_each_user_as_if_the_rest_were_not_there(
    users: list[list[int]], fresh: bool
) -> None:
    buckets = Buckets(users)
    table = buckets(0).append_column(
        "fresh", pa.array([row % 2 == 0 for row in range(buckets(0).num_rows)], pa.bool_())
    )
    rows = [row for row in table.to_pylist() if not shown(row)]
    pool = read_pool(table, plan_of(buckets, positive_only=True, fresh_only=fresh), "")
    assert pool.event_ids.to_pylist() == [row["event_id"] for row in rows]
    assert pool.codes.tolist() == [row["codes"] for row in rows]
    assert pool.wanted.tolist() == [row["fresh"] or not fresh for row in rows]
    of_user = Counter(row["user_id"] for row in rows)
    assert np.diff(pool.users).tolist() == [of_user[user] for user in sorted(of_user)]
    assert pool.users[0] == 0


def test_events_of_one_time_are_in_order_whatever_stands_first() -> None:
    table = bucket_table(0, [4, 4], 0)
    place = table.schema.get_field_index("event_time")
    same = table.set_column(place, "event_time", pa.array([START] * 8, pa.timestamp("us")))
    assert read_pool(same, Plan("r-1", 1, SIZES, 4, 6), "").users.tolist() == [0, 4, 8]


def test_a_step_smaller_than_the_workers_gives_the_rest_one_empty_row() -> None:
    buckets = Buckets([[3]])
    plan = plan_of(buckets, batch_size=2)
    ranks = read(plan, buckets, 3)
    for rank in ranks[1:]:
        ((batch, _),) = rank
        assert batch.events.lengths.tolist() == [0]
        assert batch.events.codes.shape == (1, 1, 2)
        assert not batch.targets.any()
        assert len(batch.event_ids) == 0
        assert batch.step_targets == len(ranks[0][0][0].event_ids) > 0
    moved = ranks[0][0][0].to(torch.device("cpu"))
    assert (moved.targets == ranks[0][0][0].targets).all()
