"""Vectors of structured attributes without a fitted vocabulary: values by hash, places as sinusoids.

A brand first seen tomorrow already has a direction, so nightly runs need no refit and old vectors stay valid.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.embed.protocol import Vectors
from pipelines.spec import AttributesSpec, CoordinatesSpec

# Mean radius of the Earth in km.
EARTH_KM = 6371.0
# Number of directions that are cached.
KNOWN_VALUES = 1 << 16
AT_ONCE = 4096
"""Items whose values are summed at once."""


def describe_attributes(spec: AttributesSpec) -> dict[str, Any]:
    """Return all settings that determine these vectors."""
    return {"encoder": "hashed multi-hot", **spec.model_dump(mode="json")}


def describe_coordinates(spec: CoordinatesSpec) -> dict[str, Any]:
    """Return all settings that determine these vectors."""
    return {"encoder": "features on the sphere", **spec.model_dump(mode="json")}


class MultiHot:
    """Encoder of multi-hot values, each with a fixed random direction, float32 (N, dim).

    Random projection of the multi-hot vector (Johnson and Lindenstrauss): cosines are those of shared values up to
    about 1 / sqrt(dim). Contents are JSON lists of [field, value].
    """

    def __init__(self, spec: AttributesSpec) -> None:
        self._spec = spec
        self._direction = lru_cache(KNOWN_VALUES)(self._drawn)

    def encode(self, contents: Sequence[str]) -> Vectors:
        """Return the weighted sum of an item's values, float32 (N, dim)."""
        parts = [self._sums(contents[start : start + AT_ONCE]) for start in range(0, len(contents), AT_ONCE)]
        return np.concatenate(parts)

    def _sums(self, contents: Sequence[str]) -> Vectors:
        """Return sums of float64, each in the order of an item's values: the first of all items, the second, ..."""
        values = [[(field, value) for field, value in json.loads(content)] for content in contents]
        number = {pair: at for at, pair in enumerate(dict.fromkeys(chain.from_iterable(values)))}
        weights = self._spec.weights
        weighed = [weights.get(field, 1.0) * self._direction(field, value) for field, value in number]
        directions = np.array(weighed).reshape(-1, self._spec.dim)
        counts = np.array([len(each) for each in values])
        flat = np.array([number[pair] for each in values for pair in each], np.int64)
        first = np.cumsum(counts) - counts
        sums = np.zeros((len(contents), self._spec.dim))
        for place in range(int(counts.max(initial=0))):
            there = np.flatnonzero(counts > place)
            sums[there] += directions[flat[first[there] + place]]
        return sums.astype(np.float32)

    def _drawn(self, field: str, value: str) -> NDArray[np.float64]:
        key = hashlib.blake2b(json.dumps([field, value]).encode(), digest_size=16).digest()
        draw = np.random.Generator(np.random.Philox(int.from_bytes(key, "little")))
        signs = draw.integers(0, 2, self._spec.dim) * 2 - 1
        return signs / math.sqrt(self._spec.dim)


class SphericalFourierFeatures:
    """Encoder of places on the globe as sines and cosines at several wavelengths, float32 (N, 6 * scales).

    The point on the unit sphere is multiplied by frequencies from one wave around the globe to one in `finest_km`,
    evenly spaced in their logarithm (as in Space2Vec, Mai et al. 2020). Near places get near vectors at the scale of
    each wave, and the poles and the date line are no edges. Contents are JSON lists [latitude, longitude] in degrees.
    """

    def __init__(self, spec: CoordinatesSpec) -> None:
        finest = 2 * math.pi * EARTH_KM / spec.finest_km
        self._frequency = np.geomspace(1.0, finest, spec.scales)

    def encode(self, contents: Sequence[str]) -> Vectors:
        """Return float32 (N, 6 * scales), all vectors of the same length. Raise ValueError for invalid coordinates."""
        places = np.array([_degrees(content) for content in contents])
        latitude, longitude = np.radians(places).T
        point = np.stack(
            [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
        )
        angle = (point[:, None, :] * self._frequency[None, :, None]).reshape(len(contents), -1)
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def values_of(attributes: dict[str, Any], fields: Sequence[str]) -> str | None:
    """Return the values of some attributes, with lists flattened, as content for MultiHot; None if there are none."""
    found = set()
    for field in fields:
        given = attributes.get(field)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and str(value).strip():
                found.add((field, str(value).strip()))
    return json.dumps(sorted(found), ensure_ascii=False) if found else None


def place_of(attributes: dict[str, Any], latitude: str, longitude: str) -> str | None:
    """Return [latitude, longitude] unchanged as content for SphericalFourierFeatures; None if both are missing."""
    given = [attributes.get(latitude), attributes.get(longitude)]
    return None if given == [None, None] else json.dumps(given)


def _degrees(content: str) -> tuple[float, float]:
    latitude, longitude = (float(str(each)) for each in json.loads(content))
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise ValueError(f"latitude and longitude {content} are not a place in degrees")
    return latitude, longitude
