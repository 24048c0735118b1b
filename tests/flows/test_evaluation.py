"""The held-out cases of a release against a plain loop over the log."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_rows import START, Row, deliver, event, order

from flows.steps.held_out import evaluation_cases
from pipelines.event_log import user_buckets
from pipelines.event_log.visible_log import LogSlice
from storage.lake import Lake
from tokenizer.trie.trie import Trie
from training.data.events import FIRST_OF_SESSION, OF_ONE_EVENT, SHOWN
from training.spec import GeneratorSpec

ITEMS = [f"i{number}" for number in range(6)]  # i6, i7 have no SID
CODES = np.stack(np.unravel_index(np.arange(6), (3, 2)), axis=1).astype(np.int32)
TRIE = Trie.build(CODES, pa.array(ITEMS), (3, 2))
ROW = {item: TRIE.item_ids.to_pylist().index(item) for item in ITEMS}
TYPES = ("click", "buy", "impression")
CUTOFF, ARRIVED = 300, 2

given_rows = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 7),
        st.integers(0, 600),
        st.integers(0, 4),
        st.sampled_from(TYPES),
        st.sampled_from([None, "s1", "s2"]),
    ),
    min_size=1,
    max_size=30,
)


def known(history: list[Row], positive_only: bool) -> list[tuple[int, int]]:
    """(row in the trie, kind) of the events of a user that have a SID and are read."""
    found: list[tuple[int, int]] = []
    last: Row | None = None
    for each in history:
        if each["item_id"] not in ITEMS or (positive_only and each["event_type"] == "impression"):
            continue
        kind = {"click": 0, "buy": OF_ONE_EVENT, "impression": SHOWN}[each["event_type"]]
        if last is None:
            begins = True
        elif each["session_id"] is None or last["session_id"] is None:
            begins = each["event_time"] - last["event_time"] > timedelta(minutes=30)
        else:
            begins = each["session_id"] != last["session_id"]
        found.append((ROW[each["item_id"]], kind + FIRST_OF_SESSION * begins))
        last = each
    return found


def plain(rows: list[Row], positive_only: bool) -> tuple[dict[str, Any], list[list[int]]]:
    """Per user with a target: what is read and what was taken before it, and the target; and what each learnt from."""
    cases, learnt = {}, []
    for user in {row["user_id"] for row in rows}:
        history = sorted((row for row in rows if row["user_id"] == user), key=order)
        before_cutoff = START + timedelta(minutes=CUTOFF)
        taken = [row for row in history if row["event_type"] != "impression"]
        held_out = [row for row in taken if row["event_time"] >= before_cutoff]
        if held_out:
            at = history.index(held_out[-1])
            target = ROW.get(held_out[-1]["item_id"], -1)
            # What comes before does not depend on what comes after.
            before = [row for row in history[:at] if row in taken and row["item_id"] in ITEMS]
            cases[user] = (known(history[:at], positive_only), [ROW[row["item_id"]] for row in before], target)
        arrived = START + timedelta(days=ARRIVED)
        seen = [row for row in taken if row["event_time"] < before_cutoff and row["arrival_time"] <= arrived]
        learnt.append([ROW[row["item_id"]] for row in seen if row["item_id"] in ITEMS])
    return cases, [rows for rows in learnt if rows]


@settings(max_examples=25, deadline=None)
@given(first=given_rows, again=st.booleans(), per_bucket=st.integers(1, 40), positive_only=st.booleans())
def test_cases_are_those_of_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[tuple[Any, ...]],
    again: bool,
    per_bucket: int,
    positive_only: bool,
) -> None:
    model = GeneratorSpec(behaviours=("buy",), sessions=True, positive_only=positive_only)
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    rows = [
        event(user, item, minute, day, name) | {"event_type": kind, "session_id": session}
        for name, (user, item, minute, day, kind, session) in enumerate(first)
    ]
    deliver(lake, rows, "log:0")
    if again:
        deliver(lake, rows[:3], "log:1")
    version = lake.version("interactions")
    trained_on = LogSlice(version, START + timedelta(days=ARRIVED), START + timedelta(minutes=CUTOFF))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(user_buckets, "BUCKET_EVENTS", per_bucket)
        found = evaluation_cases(lake, trained_on, TRIE, version, ("impression",), model)
    wanted, wanted_trained_on = plain(rows, positive_only)
    assert (found is None) == (not wanted)
    if found is None:
        return
    cases, trained_rows = found.cases, found.trained_on
    taken = cases.taken(np.arange(len(cases)))
    made = [
        (
            [(tuple(codes), kind) for codes, kind in zip(cases.codes[a:b], cases.kinds[a:b].tolist(), strict=True)],
            rows.tolist(),
            target,
        )
        for a, b, rows, target in zip(cases.offsets, cases.offsets[1:], taken, cases.target_rows.tolist(), strict=False)
    ]
    codes = [tuple(sid) for sid in TRIE.codes()]
    assert sorted(made) == sorted(
        ([(codes[row], kind) for row, kind in read], *rest) for read, *rest in wanted.values()
    )
    assert sorted(rows.tolist() for rows in trained_rows if len(rows)) == sorted(wanted_trained_on)


def test_an_event_at_the_cutoff_is_a_target_and_each_user_learnt_from_has_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a user who came after the cutoff; some buckets are empty."""
    lake = Lake(str(tmp_path))
    deliver(
        lake,
        [
            event(0, 0, CUTOFF - 1, 0, 0),
            event(0, 1, CUTOFF, 0, 1),
            event(1, 2, 0, 0, 2),
            event(2, 3, 0, 0, 3),
            event(2, 4, 1, 0, 4),
            event(3, 5, CUTOFF, 0, 5),
        ],
        "log:0",
    )
    version = lake.version("interactions")
    learnt = LogSlice(version, START + timedelta(days=ARRIVED), START + timedelta(minutes=CUTOFF))
    monkeypatch.setattr(user_buckets, "BUCKET_EVENTS", 1)
    found = evaluation_cases(lake, learnt, TRIE, version, ("impression",), GeneratorSpec())
    assert found is not None
    cases, learnt_rows = found.cases, found.trained_on
    assert sorted(cases.target_rows.tolist()) == [ROW["i1"], ROW["i5"]]
    assert sorted(rows.tolist() for rows in learnt_rows) == [[], [ROW["i0"]], [ROW["i2"]], [ROW["i3"], ROW["i4"]]]
