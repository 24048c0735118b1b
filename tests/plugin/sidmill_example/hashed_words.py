"""A text encoder: each word adds 1 or -1 in a dimension given by its hash."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipelines.embed.protocol import EncoderKind
from pipelines.spec import TextSpec


class Options(BaseModel):
    """`dim`: width of the vectors."""

    model_config = ConfigDict(extra="forbid")

    dim: int = Field(64, ge=2)


class HashedWords:
    """Vectors (N, dim) of texts."""

    def __init__(self, spec: TextSpec) -> None:
        self._dim = Options.model_validate(spec.options).dim

    def encode(self, contents: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(contents), self._dim), np.float32)
        for row, text in enumerate(contents):
            for word in text.lower().split():
                number = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
                vectors[row, (number >> 1) % self._dim] += 1 if number & 1 else -1
        return vectors


def describe(spec: TextSpec) -> dict[str, Any]:
    """All that decides the vectors beside the options."""
    return {"hash": "sha256", "fields": list(spec.fields)}


ENCODER = EncoderKind("text", describe, HashedWords, options=Options)
