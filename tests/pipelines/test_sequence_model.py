"""Vectors from the item embeddings of a sequence model: what they may know, their rotation, later items."""

from functools import cache, partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from test_collaborative import Event, cosine, frame, some_log

from pipelines.collaborative.factors_file import factors_bytes, read_factors, store_factors
from pipelines.collaborative.sequence_model import RIDGE, Collaborative, fit_collaborative
from pipelines.event_log.visible_log import Histories, histories
from pipelines.spec import CollaborativeSpec
from storage.files.blobs import Blobs
from training.sasrec.item_embeddings import item_embeddings_of
from training.spec import ItemEmbeddingsSpec

SASREC = ItemEmbeddingsSpec(
    dim=8, heads=2, ff=8, max_events=10, epochs=4, further_epochs=2, batch_size=16, warmup_steps=5, learning_rate=1e-2
)
TRAINED = SASREC.model_copy(update={"epochs": 40, "further_epochs": 20})
HOUR = 3_600_000_000
SINCE = 7


def spec_of(method: str = "sasrec", **settings: object) -> CollaborativeSpec:
    return CollaborativeSpec.model_validate({"method": method, "dim": 6, "window": 3, "min_events": 1, **settings})


def since(log: Histories, hour: int = SINCE) -> int:
    """The time of an hour of `some_log`, in microseconds."""
    return int(log.time.min()) + hour * HOUR


def fitted(events: list[Event], spec: CollaborativeSpec, sasrec: ItemEmbeddingsSpec = SASREC) -> Collaborative:
    log = histories(frame(events), spec)
    made = fit_collaborative(log, spec, since(log), partial(item_embeddings_of, spec=sasrec))
    assert made is not None
    return made


@cache
def trained(method: str) -> Collaborative:
    """Long enough that it says who takes what. i098 was taken once; of i097's users none took anything else."""
    seldom = [(0, 98, 20, "click"), *((user, 97, 20, "click") for user in (70, 71, 72))]
    return fitted([*some_log(), *seldom], spec_of(method, min_events=3), TRAINED)


def by_item(vectors: pl.DataFrame) -> dict[str, NDArray[np.float32]]:
    return dict(zip(vectors["item_id"], vectors["vector"].to_numpy(), strict=True))


@pytest.mark.parametrize("method", ["sasrec", "both"])
def test_a_seed_fixes_the_vectors_whatever_the_order_of_the_log(method: str) -> None:
    one, other = fitted(some_log(), spec_of(method)), fitted(some_log()[::-1], spec_of(method))
    assert factors_bytes(one.factors) == factors_bytes(other.factors)
    assert one.vectors.equals(other.vectors)
    assert one.before.equals(other.before)
    another = fitted(some_log(), spec_of(method), SASREC.model_copy(update={"seed": 1}))
    assert not one.vectors.equals(another.vectors)


def test_vectors_of_before_do_not_know_what_came_later() -> None:
    """Later events of other users and items, an item among them that nobody had taken: the earlier vectors stay."""
    past = [event for event in some_log() if event[2] < SINCE]
    draw = np.random.default_rng(5)
    future = [(user, int(item), hour, "click") for hour in (7, 8) for user, item in enumerate(draw.permutation(30))]
    fresh = [(user, 15, 9, "buy") for user in range(20)]
    past = [event for event in past if event[1] != 15]
    one, other = fitted([*past, *some_log(1)[7::10]], spec_of()), fitted([*past, *future, *fresh], spec_of())
    assert "i015" in by_item(other.vectors)
    assert one.before.equals(other.before)
    assert not one.vectors.equals(other.vectors)


@pytest.mark.parametrize("method", ["sasrec", "both"])
def test_items_taken_together_get_near_vectors_and_those_taken_too_seldom_none(method: str) -> None:
    vectors = by_item(trained(method).vectors)
    assert list(vectors) == [f"i{item:03d}" for item in range(30)]
    values = np.array(list(vectors.values()))
    np.testing.assert_allclose(np.square(values).sum(axis=1), 2 if method == "both" else 1, rtol=1e-5)
    similar = values @ values.T
    same = np.arange(30)[:, None] // 15 == np.arange(30) // 15
    assert similar[same].mean() > similar[~same].mean() + 0.5


@pytest.mark.parametrize("method", ["sasrec", "both"])
def test_an_item_that_comes_later_lands_among_those_it_is_taken_with_by_frozen_directions(
    tmp_path: Path, method: str
) -> None:
    made = trained(method)
    blobs = Blobs(str(tmp_path))
    again = read_factors(blobs, store_factors(blobs, made.factors), made.factors.names)
    for hours in ([5], [5, 6, 7]):
        new = [(user, 99, hour, "click") for user in range(0, 20, 2) for hour in hours]
        grown = histories(frame([*some_log(), *new]), spec_of(method))
        folded = by_item(again.fold(grown))["i099"]
        near = [cosine(vector, folded) for vector in by_item(made.vectors).values()]
        assert min(near[:15]) > max(near[15:])


def turned(logs: list[list[NDArray[np.int64]]], items: int) -> list[NDArray[np.float32]]:
    """Towers that differ by a rotation alone, of more items each time."""
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((items, 4))
    rotation = np.linalg.qr(draw.standard_normal((4, 4)))[0]
    return [np.asarray(vectors @ turn, np.float32) for turn in (np.eye(4), rotation)[: len(logs)]]


def test_later_vectors_are_turned_onto_the_earlier_ones() -> None:
    spec = spec_of()
    log = histories(frame(some_log()), spec)
    made = fit_collaborative(log, spec, since(log), turned)
    assert made is not None
    assert made.before.height == made.vectors.height == 30
    np.testing.assert_allclose(made.vectors["vector"].to_numpy(), made.before["vector"].to_numpy(), atol=1e-5)


def test_without_a_time_or_without_histories_before_it_there_are_no_earlier_vectors() -> None:
    spec = spec_of()
    log = histories(frame(some_log()), spec)
    for before in (None, since(log, 1)):
        made = fit_collaborative(log, spec, before, turned)
        assert made is not None
        assert made.before.is_empty()
        assert made.vectors.height == 30


def test_directions_are_those_of_ridge_regression() -> None:
    spec = spec_of()
    log = histories(frame(some_log()), spec)
    made = fit_collaborative(log, spec, since(log), turned)
    assert made is not None
    rows = made.factors.rows(log).toarray()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    wanted = np.linalg.solve(rows.T @ rows + RIDGE * np.eye(30), rows.T @ made.vectors["vector"].to_numpy())
    np.testing.assert_allclose(made.factors.directions, wanted, atol=1e-3)


@pytest.mark.parametrize("given", [{"event_weights": {"buy": 2.0}}, {"half_life_days": 30.0}])
def test_weights_of_events_are_refused_where_nothing_is_weighed_by_them(given: dict[str, object]) -> None:
    with pytest.raises(
        ValueError, match=f"{next(iter(given))} cannot be used with .*weighs all events equally.*exclude_events"
    ):
        spec_of("sasrec", **given)
    assert spec_of("both", **given).weighted == next(iter(given))
    assert spec_of("sasrec").weighted == ""


def test_a_method_that_is_given_no_training_is_refused() -> None:
    log = histories(frame(some_log()), spec_of())
    with pytest.raises(ValueError, match=r'collaborative.method = "sasrec" trains a sequence model, but'):
        fit_collaborative(log, spec_of())
