"""A fitted codebook: the arrays, the spec and the capacity that give codes their meaning."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import ValidationError

from tokenizer.arrays.array_file import check_seal, seal, unpack
from tokenizer.arrays.types import Array
from tokenizer.errors import CapacityExhausted, CodebookCorrupt, VectorError
from tokenizer.spec import CodebookSpec


@dataclass(frozen=True, eq=False)
class Codebook:
    """Everything needed to encode vectors and to decode codes; two with the same `id` give the same SIDs.

    `arrays` holds the quantizer's arrays under names of its own (rq-kmeans: "level0" centroids float32 K x D).
    `capacity` is, per level, the most SIDs a code may ever hold, out of `planned_items`. `fitted_items` is the number
    of items in the catalogue of the fit. `statistics` describes the fit and is not part of the identity.
    """

    spec: CodebookSpec
    arrays: Mapping[str, Array]
    capacity: tuple[int, ...]
    planned_items: int
    fitted_items: int
    statistics: dict[str, Any]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes at each position of a SID: per level, and of the extra token if there is one."""
        last = self.spec.collision_policy.token_codes(self.spec.suffix_codes, self.planned_items)
        return tuple(level.codes for level in self.spec.levels) + (() if last is None else (last,))

    @property
    def levels(self) -> int:
        """Number of levels, without the extra token."""
        return len(self.spec.levels)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the vectors it reads, without repetition, in level order."""
        return tuple(dict.fromkeys(level.source for level in self.spec.levels))

    @cached_property
    def id(self) -> str:
        """Content hash: 16 hex digits over spec, arrays and capacity.

        Settings at their defaults are left out, so a new setting does not rename old codebooks.
        """
        digest = hashlib.sha256(_canonical(self.spec.model_dump(mode="json", exclude_defaults=True)))
        for name in sorted(self.arrays):
            array = self.arrays[name]
            digest.update(_canonical([name, str(array.dtype), list(array.shape)]))
            digest.update(np.ascontiguousarray(array).data)
        digest.update(_canonical(list(self.capacity)))
        return digest.hexdigest()[:16]

    @cached_property
    def vocabulary(self) -> str:
        """Hash of the meaning of a model's output layer: codebook, codes per level, collision policy."""
        meaning = [self.id, list(self.sizes), self.spec.collision]
        return hashlib.sha256(_canonical(meaning)).hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """Return one safetensors file, the same bytes for the same codebook, sealed by its own sha256."""
        record = {
            "spec": self.spec.model_dump(mode="json"),
            "capacity": list(self.capacity),
            "planned_items": self.planned_items,
            "fitted_items": self.fitted_items,
            "statistics": self.statistics,
        }
        return seal(self.arrays, {"format": "sidmill-codebook", "codebook": _canonical(record).decode()})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Codebook":
        """Read the bytes of `to_bytes`. Raises CodebookCorrupt if a byte differs."""
        try:
            check_seal(data)
            metadata, arrays = unpack(data)
            record = json.loads(metadata["codebook"])
            spec = CodebookSpec.model_validate(record["spec"])
            return cls(
                spec=spec,
                arrays=arrays,
                capacity=tuple(record["capacity"]),
                planned_items=record["planned_items"],
                fitted_items=record["fitted_items"],
                statistics=record["statistics"],
            )
        except (ValueError, KeyError, ValidationError) as error:
            raise CodebookCorrupt(
                f"the codebook file ({len(data)} bytes) is damaged: {error}. Restore it from the lake or fit the "
                "codebook again"
            ) from error


def plan(spec: CodebookSpec, items: int) -> tuple[tuple[int, ...], int]:
    """Return the capacity of a code of each level, and the number of planned items, for a fit on `items`.

    Raises as `check_capacity` does.
    """
    check_capacity(spec, items)
    planned = _planned(spec, items)
    places = spec.slack * planned
    capacity = tuple(math.ceil(places / level.codes if spec.balanced else places) for level in spec.levels)
    return (capacity if spec.collision_policy.token is None else (*capacity, planned)), planned


def check_capacity(spec: CodebookSpec, items: int) -> None:
    """Raise VectorError for no items, CapacityExhausted when the levels hold fewer SIDs than planned for `items`."""
    if not items:
        raise VectorError("there are no items to fit a codebook on; at least one is needed")
    planned = _planned(spec, items)
    token = spec.collision_policy.token_codes(spec.suffix_codes, planned) or 1
    sids = math.prod(level.codes for level in spec.levels) * token
    if sids < planned and not spec.collision_policy.shares:
        shape = " x ".join(str(level.codes) for level in spec.levels)
        raise CapacityExhausted(
            f"the codebook is too small: {shape} codes give {sids} SIDs, but {planned} are planned (growth "
            f"{spec.growth} x {items} items); add a level or codes, or plan for less growth"
        )


def _planned(spec: CodebookSpec, items: int) -> int:
    return math.ceil(spec.growth * items)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
