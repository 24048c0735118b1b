"""Histories and pairs against plain loops; factors that take in later items without moving earlier ones."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.collaborative.factors_file import factors_bytes
from pipelines.collaborative.sppmi import Factors, fit_rows
from pipelines.event_log.visible_log import COLUMNS, Histories, histories
from pipelines.spec import CollaborativeSpec

START = datetime(2024, 1, 1, tzinfo=UTC)
Event = tuple[int, int, int, str]


def frame(events: list[Event]) -> pl.DataFrame:
    """Events (user, item, hour, type) as a log."""
    return pl.DataFrame(
        {
            "user_id": [f"u{user}" for user, _, _, _ in events],
            "item_id": [f"i{item:03d}" for _, item, _, _ in events],
            "event_time": [START + timedelta(hours=hour) for _, _, hour, _ in events],
            "event_id": [f"{user}-{item}-{hour}" for user, item, hour, _ in events],
            "event_type": [kind for _, _, _, kind in events],
            "impression": [None] * len(events),
            "arrival_time": [START + timedelta(days=9)] * len(events),
            "source": ["s"] * len(events),
            "source_offset": range(len(events)),
        },
        schema={
            **dict.fromkeys(("user_id", "item_id"), pl.String),
            "event_time": pl.Datetime("us", "UTC"),
            **dict.fromkeys(("event_id", "event_type"), pl.String),
            "impression": pl.Boolean,
            "arrival_time": pl.Datetime("us", "UTC"),
            "source": pl.String,
            "source_offset": pl.Int64,
        },
    ).select(COLUMNS)


def some_log(seed: int = 0, users: int = 60, items: int = 30, length: int = 10) -> list[Event]:
    """Users of two kinds, each with items of its own."""
    draw = np.random.default_rng(seed)
    half = items // 2
    return [
        (user, int(draw.integers(half) + half * (user % 2)), hour, "click")
        for user in range(users)
        for hour in range(length)
    ]


EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 40), st.sampled_from(["view", "buy"])),
    max_size=40,
    unique_by=lambda event: event[:3],
)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, window=st.integers(1, 4), half_life=st.one_of(st.none(), st.floats(0.5, 5)))
def test_counts_and_pairs_are_those_of_a_double_loop(events: list[Event], window: int, half_life: float | None) -> None:
    spec = CollaborativeSpec(window=window, min_events=1, event_weights={"buy": 3.0}, half_life_days=half_life)
    log = histories(frame(events), spec)
    newest = max((hour for _, _, hour, _ in events), default=0)

    def weight(hour: int, kind: str) -> float:
        aged = 1.0 if half_life is None else 0.5 ** ((newest - hour) / 24 / half_life)
        return aged * (3.0 if kind == "buy" else 1.0)

    since = log.newest(0.5)
    counts, pairs = np.zeros((len(log.names), len(log.names))), []
    place = {name: row for row, name in enumerate(log.names)}
    for user in range(4):
        own = sorted((hour, at, item, kind) for at, (u, item, hour, kind) in enumerate(events) if u == user)
        for later, (hour, _, item, kind) in enumerate(own):
            for before, _, other, its in own[max(0, later - window) : later]:
                one, two = place[f"i{item:03d}"], place[f"i{other:03d}"]
                if one != two:
                    counts[one, two] += weight(hour, kind) * weight(before, its)
                    counts[two, one] += weight(hour, kind) * weight(before, its)
                    if (START + timedelta(hours=hour)).timestamp() * 1e6 >= since:
                        pairs += [(one, two), (two, one)]
    np.testing.assert_allclose(log.counts(window).toarray(), counts, rtol=1e-9)
    assert sorted(map(tuple, log.pairs(window, since).tolist())) == sorted(pairs)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, window=st.integers(1, 4), buy=st.sampled_from([1.0, 3.0]))
def test_whole_weights_have_the_same_sums_at_once_as_distance_by_distance(
    events: list[Event], window: int, buy: float
) -> None:
    log = histories(frame(events), CollaborativeSpec(window=window, min_events=1, event_weights={"buy": buy}))
    at_once, one_by_one = log._all_at_once(window), log._by_distance(window)
    np.testing.assert_array_equal(at_once.toarray(), one_by_one.toarray())


def test_fractional_weights_are_added_distance_by_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("_all_at_once", "_by_distance"):
        plain = getattr(Histories, name)
        monkeypatch.setattr(Histories, name, lambda *a, n=name, f=plain: calls.append(n) or f(*a))
    for half_life in (None, 2.0):
        histories(frame(some_log()), _lax(half_life_days=half_life)).counts(3)
    assert calls == ["_all_at_once", "_by_distance"]


@pytest.mark.parametrize("weights", [{}, {"click": 2.5}])
def test_the_matrix_of_a_fit_is_the_rows_of_its_log(weights: dict[str, float]) -> None:
    log, spec = histories(frame(some_log()), _lax(event_weights=weights)), _lax(event_weights=weights)
    fitted = fit_rows(log, spec)
    assert fitted is not None
    factors, rows = fitted
    again = factors.rows(log)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(again, name))
    assert factors.fold(log, rows).equals(factors.fold(log))


def test_the_newest_share_keeps_equal_times_together() -> None:
    log = histories(frame([(0, item, hour, "x") for item, hour in enumerate([0, 1, 2, 2, 2, 3])]), _lax())
    assert np.count_nonzero(log.time >= log.newest(0.2)) == 1
    assert np.count_nonzero(log.time >= log.newest(0.5)) == 4
    assert np.count_nonzero(log.time >= log.newest(1.0)) == 6


def test_the_newest_events_of_a_user_count_and_no_others_of_those() -> None:
    events = [(0, item, hour, "x") for item, hour in enumerate([5, 0, 3, 1, 4, 2])] + [(1, 0, 9, "x"), (1, 1, 0, "x")]
    log = histories(frame(events), _lax(user_cap=3))
    hours = (log.time - log.time.min()) // 3_600_000_000
    assert [(log.names[item], hour) for item, hour in zip(log.item, hours, strict=True)] == [
        *(("i002", 3), ("i004", 4), ("i000", 5)),
        *(("i001", 0), ("i000", 9)),
    ]


def test_what_was_only_shown_and_types_that_the_recipe_leaves_out_are_no_behaviour() -> None:
    events = frame([(0, 0, 0, "buy"), (0, 1, 1, "buy"), (0, 2, 2, "view"), (0, 3, 3, "view"), (0, 4, 4, "buy")])
    shown = events.with_columns(impression=pl.Series([None, True, True, False, False]))
    assert histories(shown, _lax(exclude_events=("view",))).names == ("i000", "i004")


def test_behaviour_lies_user_by_user_in_time() -> None:
    log = histories(frame(some_log()), _lax())
    assert log.user.tolist() == sorted(log.user.tolist())
    assert log.time.reshape(60, 10).tolist() == np.sort(log.time.reshape(60, 10), axis=1).tolist()


def test_an_event_loses_half_its_weight_in_a_half_life() -> None:
    log = histories(frame([(0, 0, 0, "view"), (0, 1, 24, "buy"), (0, 2, 48, "view")]), _lax(half_life_days=1.0))
    assert log.weight.tolist() == [0.25, 0.5, 1.0]
    weighted = histories(frame([(0, 0, 0, "buy"), (0, 1, 9, "view")]), _lax(event_weights={"buy": 3.0}))
    assert weighted.weight.tolist() == [3.0, 1.0]


def _lax(**settings: object) -> CollaborativeSpec:
    return CollaborativeSpec.model_validate({"dim": 6, "window": 3, "min_events": 1, **settings})


def _fitted(log: Histories) -> Factors:
    fitted = fit_rows(log, _lax())
    assert fitted is not None
    return fitted[0]


def test_folding_the_log_of_the_fit_gives_the_vectors_of_the_decomposition() -> None:
    log = histories(frame(some_log()), _lax())
    factors = _fitted(log)
    counts = log.counts(3).toarray()
    met = counts.sum(axis=1)
    with np.errstate(divide="ignore"):
        information = np.maximum(np.log(counts * counts.sum() / np.outer(met, met)), 0)
    left, values, _ = np.linalg.svd(information)
    wanted = left[:, :6] * np.sqrt(values[:6])
    found = np.array(factors.fold(log)["vector"].to_list())
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-4)


def test_an_item_that_comes_later_lands_among_those_it_is_taken_with_and_moves_no_vector_of_theirs() -> None:
    log = histories(frame(some_log()), _lax())
    factors = _fitted(log)
    before = vectors(factors, log)
    new = [(user, 99, 5, "click") for user in range(0, 20, 2)]
    grown = histories(frame([*some_log(), *new]), _lax())
    after = vectors(factors, grown)
    assert "i099" not in before
    similar = {name: cosine(after["i099"], vector) for name, vector in before.items()}
    assert min(similar[f"i{item:03d}"] for item in range(15)) > max(similar[f"i{item:03d}"] for item in range(15, 30))
    only = grown.where(np.array([grown.names[item] == "i099" for item in grown.item]))
    assert factors.fold(only).is_empty()  # met beside nothing that the fit knew


def test_how_much_was_taken_since_the_fit_does_not_matter_to_a_fold() -> None:
    """Twice the users, each pair twice as often: counts are set against those of the fit."""
    log = histories(frame(some_log()), _lax())
    factors = _fitted(log)
    doubled = [*some_log(), *((user + 100, item, hour, kind) for user, item, hour, kind in some_log())]
    folded = factors.fold(histories(frame(doubled), _lax()))
    np.testing.assert_allclose(folded["vector"].to_numpy(), factors.fold(log)["vector"].to_numpy(), atol=1e-6)


def vectors(factors: Factors, log: Histories) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    return {name: np.array(vector) for name, vector in factors.fold(log).iter_rows()}


def cosine(one: np.ndarray, other: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_factors_do_not_depend_on_the_order_of_the_log() -> None:
    events = some_log()
    one, other = (_fitted(histories(frame(each), _lax())) for each in (events, events[::-1]))
    assert factors_bytes(one) == factors_bytes(other)


@pytest.mark.parametrize("events", [[], [(0, 1, 0, "x")], [(0, 1, 0, "x"), (0, 2, 1, "x")]])
def test_a_log_without_pairs_to_speak_of_has_no_factors(events: list[Event]) -> None:
    log = histories(frame(events), _lax())
    assert log.item.dtype == log.user.dtype == log.time.dtype == np.int64
    assert fit_rows(log, _lax()) is None
    assert log.pairs(3, 0).shape[1] == 2
