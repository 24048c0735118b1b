"""Kinds of events, where sessions begin, and padded histories."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import torch

from training.data.events import begins_session, event_kinds, gathered, only_shown

START = datetime(2026, 1, 1, tzinfo=UTC)
GAP = timedelta(minutes=30)
MOMENT = timedelta(microseconds=1)


def log(*rows: tuple[str, str | None, timedelta]) -> pa.Table:
    """Events (user, session id, time since START) as the readers of sequences have them."""
    users, sessions, times = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "session_id": pa.array(sessions, pa.string()),
            "event_time": pa.array([START + time for time in times], pa.timestamp("us", "UTC")),
            "event_type": pa.array(["click"] * len(rows), pa.string()),
        }
    )


def test_the_numbers_of_kinds_stay_because_stored_models_have_a_vector_for_each() -> None:
    table = pa.table(
        {
            "event_type": ["click", "view", "buy", "rate", "buy"],
            "impression": pa.array([None, None, False, False, True], pa.bool_()),
            "user_id": ["u"] * 5,
            "session_id": ["s", "s", "s", "t", "t"],
            "event_time": pa.array([START] * 5, pa.timestamp("us", "UTC")),
        }
    )
    shown = only_shown(table, ("view",))
    assert event_kinds(table, shown, ("buy", "rate"), sessions=False).tolist() == [0, 1, 2, 3, 1]
    assert event_kinds(table, shown, ("buy", "rate"), sessions=True).tolist() == [256, 1, 2, 259, 1]


def test_a_session_without_an_id_lasts_until_a_gap_of_more_than_half_an_hour() -> None:
    table = log(("u", None, 0 * GAP), ("u", None, GAP), ("u", None, 2 * GAP + MOMENT), ("v", None, 2 * GAP + MOMENT))
    assert begins_session(table).tolist() == [True, False, True, True]


def test_a_session_with_an_id_lasts_as_long_as_its_id() -> None:
    table = log(("u", "a", 0 * GAP), ("u", "a", 9 * GAP), ("u", "b", 9 * GAP), ("v", "b", 9 * GAP))
    assert begins_session(table).tolist() == [True, False, True, True]
    assert begins_session(log()).tolist() == []


def test_histories_are_padded_with_zeros_also_where_nobody_has_an_event() -> None:
    codes, kinds = np.array([[3, 4, 5], [6, 7, 8]]), np.array([1, 2])
    found = gathered(codes, kinds, np.array([[1, 0], [0, 1]]), np.array([2, 1]))
    assert found.codes.tolist() == [[[6, 7, 8], [3, 4, 5]], [[3, 4, 5], [0, 0, 0]]]
    assert found.kinds.tolist() == [[2, 1], [1, 0]]
    nobody = gathered(codes[:0], kinds[:0], np.zeros((2, 1), np.int64), np.zeros(2, np.int64))
    assert (nobody.codes.tolist(), nobody.kinds.tolist()) == ([[[0, 0, 0]], [[0, 0, 0]]], [[0], [0]])
    assert {each.dtype for each in (nobody.codes, nobody.kinds, nobody.lengths)} == {torch.int64}
