"""Structured attributes: cosines of multi-hot values, places near places, nothing that has to be fitted."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.embed.attributes import EARTH_KM, MultiHot, SphericalFourierFeatures, place_of, values_of
from pipelines.embed.protocol import Vectors, apply
from pipelines.embed.stages import EmbedAttributes
from pipelines.spec import AttributesSpec, CoordinatesSpec

VALUES = st.lists(st.sampled_from([[field, value] for field in ("brand", "kind") for value in "abcdef"]), min_size=1)


def unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@settings(max_examples=50, deadline=None)
@given(one=VALUES, other=VALUES)
def test_cosines_are_those_of_the_multi_hot_vectors(one: list[list[str]], other: list[list[str]]) -> None:
    mine, its = ({tuple(value) for value in values} for values in (one, other))
    spec = AttributesSpec(fields=("brand", "kind"), dim=4096)
    vectors = unit(MultiHot(spec).encode([json.dumps(sorted(mine)), json.dumps(sorted(its))]))
    wanted = len(mine & its) / math.sqrt(len(mine) * len(its))
    assert vectors[0] @ vectors[1] == pytest.approx(wanted, abs=0.1)


def test_a_value_has_one_direction_whatever_else_there_is_and_weights_count() -> None:
    spec = AttributesSpec(fields=("brand",), dim=64, weights={"brand": 3.0})
    alone = MultiHot(spec).encode(['[["brand", "x"]]'])
    among = MultiHot(spec).encode(['[["kind", "y"]]', '[["brand", "x"]]', '[["brand", "y"]]'])
    np.testing.assert_array_equal(alone[0], among[1])
    assert np.linalg.norm(alone[0]) == pytest.approx(3.0)
    assert np.linalg.norm(among[0]) == pytest.approx(1.0)
    assert abs(unit(among)[1] @ unit(among)[2]) < 0.5


@settings(max_examples=50, deadline=None)
@given(items=st.lists(st.lists(st.sampled_from([["brand", "a"], ["brand", "b"], ["kind", "a"]])), min_size=1))
def test_many_items_have_the_bytes_of_a_sum_value_by_value(items: list[list[list[str]]]) -> None:
    encoder = MultiHot(AttributesSpec(fields=("brand", "kind"), dim=16, weights={"brand": 0.3}))
    plain = []
    for values in items:
        total = np.zeros(16)
        for field, value in values:
            total += {"brand": 0.3}.get(field, 1.0) * encoder._direction(field, value)
        plain.append(total.astype(np.float32))
    found = encoder.encode([json.dumps(values) for values in items])
    assert found.tobytes() == np.stack(plain).tobytes()


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ({"brand": "x", "price": 3}, '[["brand", "x"]]'),
        ({"brand": ["b", "a", "b", " "], "year": 1999}, '[["brand", "a"], ["brand", "b"], ["year", "1999"]]'),
        ({"brand": "", "year": None}, None),
        ({}, None),
    ],
)
def test_values_are_taken_apart_and_their_order_is_none(attributes: dict[str, object], found: str | None) -> None:
    assert values_of(attributes, ("year", "brand")) == found


PLACES = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@settings(max_examples=50, deadline=None)
@given(place=PLACES, near=st.floats(0.01, 0.3), far=st.floats(500, 5000))
def test_near_places_are_nearer_than_far_ones_also_at_the_poles_and_the_date_line(
    place: tuple[float, float], near: float, far: float
) -> None:
    features = SphericalFourierFeatures(CoordinatesSpec())

    def north(kilometres: float) -> tuple[float, float]:
        degrees = math.degrees(kilometres / EARTH_KM)
        latitude = place[0] + degrees if place[0] + degrees <= 90 else place[0] - degrees
        return latitude, place[1]

    here, close, away, turned = unit(
        features.encode([json.dumps(each) for each in (place, north(near), north(far), (place[0], -place[1]))])
    )
    assert here @ close > 0.85
    assert here @ close > here @ away + 0.05
    if abs(place[1]) == 180 or abs(place[0]) == 90:
        assert here @ turned == pytest.approx(1, abs=1e-3)


def test_what_is_no_place_costs_its_own_row_only() -> None:
    contents = [place_of({"latitude": one, "longitude": two}, "latitude", "longitude") for one, two in BAD]
    batch = pa.table({"item_id": [str(row) for row in range(len(BAD))], "content": contents})
    answer = apply(EmbedAttributes(CoordinatesSpec()), batch)
    reasons = answer.column("reason").to_pylist()
    assert reasons == [None, "encoder_failed", "encoder_failed", "encoder_failed", "encoder_failed", None]
    assert "not a place in degrees" in answer.column("detail").to_pylist()[1]
    assert answer.column("vector")[0].as_py() is not None
    assert place_of({}, "latitude", "longitude") is None


BAD = [("52.5", "13.4"), (91, 0), (0, -180.5), ("north", 3), (None, 3), (-90, 180)]
