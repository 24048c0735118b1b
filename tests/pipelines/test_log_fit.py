"""Behaviour counted and fitted out of core is that of the same log in memory, however it is divided."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_rows import START, Row, deliver, event
from scipy.sparse import csr_matrix, vstack

from pipelines.collaborative import pair_counts
from pipelines.collaborative.factors_file import factors_bytes
from pipelines.collaborative.log_fit import LogFit, fit_log
from pipelines.collaborative.pair_counts import PairCounts
from pipelines.collaborative.sppmi import fit_rows, most_seen
from pipelines.event_log import behaviour_log as log_module
from pipelines.event_log.behaviour_log import BehaviourLog, LogItems, behaviour_log
from pipelines.event_log.visible_log import COLUMNS, EventArrays, Histories, LogSlice, histories
from pipelines.spec import CollaborativeSpec
from storage.lake import Lake
from tokenizer.arrays.executor import Threads

DAYS = timedelta(days=9)


def rows_of(seed: int, users: int = 40, items: int = 25, length: int = 8) -> list[Row]:
    """Users of two kinds, each with items of its own; some events are equal in time, shown only, or of other types."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(users * length):
        user = int(draw.integers(users))
        row = event(user, int(draw.integers(items)) * 2 + user % 2, int(draw.integers(60)), 0, number)
        rows.append(row | {"event_type": str(draw.choice(["view", "buy", "seen"])), "impression": draw.random() < 0.1})
    return rows


@contextmanager
def lake_with(rows: list[Row]) -> Iterator[tuple[Lake, LogSlice]]:
    with TemporaryDirectory() as folder:
        lake = Lake(folder)
        deliver(lake, rows, "log")
        yield lake, LogSlice(lake.version("interactions"), START + DAYS, START + DAYS)


def spec_of(**values: object) -> CollaborativeSpec:
    given = {"dim": 5, "window": 3, "min_events": 2, "user_cap": 7, "exclude_events": ("seen",), **values}
    return CollaborativeSpec.model_validate(given)


def parts_of(log: Histories, count: int) -> list[EventArrays]:
    return [log.where(log.user % count == part) for part in range(count)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    parts=st.integers(1, 5),
    block=st.integers(1, 40),
    span=st.integers(1, 30),
    workers=st.integers(1, 3),
    contexts=st.integers(1, 60),
    half_life=st.sampled_from([None, 0.1]),
)
def test_counts_out_of_core_are_those_in_memory(
    seed: int, parts: int, block: int, span: int, workers: int, contexts: int, half_life: float | None
) -> None:
    log = seen_in(rows_of(seed), spec_of(half_life_days=half_life))
    chosen = most_seen(np.bincount(log.item), contexts)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (("BLOCK_PAIRS", block), ("SPAN", span), ("LOCAL_THREADS", Threads(workers))):
            patched.setattr(pair_counts, name, value)
        counts = PairCounts.of(parts_of(log, parts), len(log.names), chosen, 3)
        blocks = list(counts.blocks())
    edges = [rows.start for rows, _ in blocks] + [len(log.names)]
    assert edges == sorted(set(edges))
    assert edges[0] == 0
    wanted = log.counts(3)
    close = np.testing.assert_array_equal if half_life is None else np.testing.assert_allclose
    close(vstack([each for _, each in blocks]).toarray(), wanted[:, chosen].toarray())
    close(counts.met, np.asarray(wanted.sum(axis=1)).ravel())
    masked = vstack([each for _, each in counts.blocks(np.arange(len(log.names)) % 2 == 0)]).toarray()
    close(masked[::2], wanted[::2, chosen].toarray())
    assert not masked[1::2].any()


def seen_in(rows: list[Row], spec: CollaborativeSpec) -> Histories:
    """The behaviour in some rows, without a lake."""
    events = pl.DataFrame(rows, schema_overrides={"impression": pl.Boolean}, infer_schema_length=None)
    return histories(events.select(COLUMNS), spec)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    part_events=st.integers(40, 400),
    cap=st.integers(2, 9),
    half_life=st.sampled_from([None, 2.0]),
    merged=st.integers(5, 40),
)
def test_the_parts_of_a_log_are_its_behaviour(
    seed: int, part_events: int, cap: int, half_life: float | None, merged: int
) -> None:
    spec = spec_of(user_cap=cap, half_life_days=half_life, event_weights={"buy": 3.0}, min_events=4)
    with lake_with(rows_of(seed, items=40)) as (lake, log), pytest.MonkeyPatch.context() as patched:
        patched.setattr(log_module, "MERGED", merged)
        patched.setattr(log_module, "BATCH_ROWS", 50)
        wanted = histories(log.read(lake, COLUMNS), spec)
        items = LogItems.of(lake, log, spec)
        assert items.events == lake.rows("interactions")
        with behaviour_log(lake, log, items, spec, part_events) as found:
            assert found.items.to_pylist() == list(wanted.names)
            np.testing.assert_array_equal(found.seen, np.bincount(wanted.item, minlength=len(wanted.names)))
            for share in (0.1, 0.25, 0.9, 1.0):
                assert found.newest_since(share) == wanted.newest(share)
            users = [user for part in found.parts() for user in histories_of(part)]
        assert sorted(users) == sorted(histories_of(wanted))


@given(st.lists(st.lists(st.text(max_size=3), unique=True), min_size=1, max_size=5))
def test_counts_are_sorted_by_ranges_as_in_one_go(ids: list[list[str]]) -> None:
    parts = [pl.DataFrame({"item_id": part}, schema={"item_id": pl.String}).with_row_index() for part in ids]
    whole = pl.concat(parts)
    assert log_module._sorted(parts)["item_id"].to_list() == whole.sort("item_id")["item_id"].to_list()


def histories_of(events: EventArrays) -> list[list[tuple[int, int, float]]]:
    """The events of each user, in order."""
    of_user: dict[int, list[tuple[int, int, float]]] = {}
    columns = (events.item.tolist(), events.time.tolist(), events.weight.tolist())
    for user, *taken in zip(events.user.tolist(), *columns, strict=True):
        of_user.setdefault(user, []).append(tuple(taken))  # type: ignore[arg-type]
    return list(of_user.values())


@pytest.mark.parametrize("fit_items", [None, 20, 3])
@pytest.mark.parametrize("part_events", [60, 10_000])
def test_factors_and_vectors_of_a_log_have_the_bytes_of_those_in_memory(
    fit_items: int | None, part_events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(fit_items=fit_items, event_weights={"buy": 2.0})
    monkeypatch.setattr(pair_counts, "BLOCK_PAIRS", 50)
    with lake_with(rows_of(1)) as (lake, log):
        seen = histories(log.read(lake, COLUMNS), spec)
        expected = fit_rows(seen, spec)
        assert expected is not None
        factors, rows = expected
        with behaviour_log(lake, log, LogItems.of(lake, log, spec), spec, part_events) as found:
            made = fit_log(found, spec)
            assert made is not None
            assert factors_bytes(made.factors) == factors_bytes(factors)
            assert pl.concat(made.vectors()).equals(factors.fold(seen, rows))
            since = found.newest_since(0.25)
            assert since == seen.newest(0.25)
            _before_is(made, factors.fold(seen.where(seen.time < since)), since)


def _before_is(made: LogFit, expected: pl.DataFrame, since: int) -> None:
    names = made.log.items.to_pylist()
    for wanted in (np.arange(len(names)), np.arange(3, len(names), 4)):
        before = made.before(since, wanted).take(slice(None))
        found = {names[row]: before.vectors[at].tolist() for at, row in enumerate(wanted) if before.present[at]}
        assert found == {name: vector for name, vector in expected.iter_rows() if name in {names[r] for r in wanted}}


def test_an_item_of_a_fit_on_some_items_folds_in_to_its_own_vector() -> None:
    spec = spec_of(fit_items=12, window=4)
    log = seen_in(rows_of(2), spec)
    fitted = fit_rows(log, spec)
    assert fitted is not None
    factors, rows = fitted
    chosen = most_seen(np.bincount(log.item), 12)
    assert [log.names[row] for row in chosen] == list(factors.names)
    matrix = rows[chosen].toarray()
    left, values, _ = np.linalg.svd(matrix)
    expected = left[:, :5] * np.sqrt(values[:5])
    found = factors.project(csr_matrix(matrix))
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)
    folded = dict(factors.fold(log).iter_rows())
    for name, vector in zip(factors.names, found, strict=True):
        np.testing.assert_array_equal(np.array(folded[name], np.float32), vector)


def test_the_most_frequent_items_are_fitted_and_of_equal_ones_those_whose_ids_come_first() -> None:
    assert most_seen(np.array([2, 5, 2, 1, 5, 2]), 4).tolist() == [0, 1, 2, 4]
    assert most_seen(np.array([2, 5]), 2).tolist() == most_seen(np.array([2, 5]), None).tolist() == [0, 1]


def test_a_log_without_pairs_has_no_fit(tmp_path: Path) -> None:
    lake, spec = Lake(str(tmp_path)), spec_of(min_events=1)
    for count, rows in enumerate(([], [event(0, 0, 0, 0, 0)], [event(0, 0, 0, 0, 0), event(0, 1, 1, 0, 1)])):
        deliver(lake, rows[-1:], f"log:{count}")
        if not rows:
            continue
        log = LogSlice(lake.version("interactions"), START + DAYS, START + DAYS)
        with behaviour_log(lake, log, LogItems.of(lake, log, spec), spec) as found:
            assert isinstance(found, BehaviourLog)
            assert fit_log(found, spec) is None
