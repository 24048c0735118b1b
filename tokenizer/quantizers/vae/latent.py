"""A trained encoder or decoder as plain arrays in NumPy; an item's latent is equal in any block."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tokenizer.arrays.distance import BLOCK, blocked_product
from tokenizer.arrays.types import Array, Floats
from tokenizer.arrays.vectors import Block
from tokenizer.balancing.costs import Target
from tokenizer.spec import CodebookSpec

Layers = tuple[tuple[Floats, Floats], ...]
"""Weights (D, d) and biases (d,), first layer to last."""

PIECE = 8 * BLOCK
"""Rows that go through a network at a time, which bounds the memory of hidden layers."""


def has_fixed_grid(spec: CodebookSpec) -> bool:
    """Return whether codes are values on a fixed grid, one dimension a level (fsq), not learnt vectors (rq-vae)."""
    return spec.quantizer == "fsq"


def layers_of(arrays: Mapping[str, Array], part: str) -> Layers:
    """Return the layers of the "encoder" or the "decoder" of a codebook."""
    count = sum(name.startswith(f"{part}.weight") for name in arrays)
    return tuple((arrays[f"{part}.weight{number}"], arrays[f"{part}.bias{number}"]) for number in range(count))


def perceptron(layers: Layers, vectors_ND: Floats) -> Floats:
    """Return linear layers with ReLU between them, float32 (N, d). A row's bytes do not depend on other rows."""
    out = np.empty((len(vectors_ND), len(layers[-1][1])), np.float32)
    for start in range(0, len(vectors_ND), PIECE):
        x = vectors_ND[start : start + PIECE]
        for number, (weight, bias) in enumerate(layers):
            x = blocked_product(x, weight) + bias
            if number < len(layers) - 1:
                x = np.maximum(x, 0)
        out[start : start + PIECE] = x
    return out


@dataclass(frozen=True)
class Encoded:
    """The latents (n, d): standardised vectors through the encoder, within (-1, 1) if `bounded`.

    A `Target`.
    """

    source: str
    mean: Floats
    scale: Floats
    encoder: Layers
    bounded: bool

    def __call__(self, block: Block) -> Floats:
        latent = perceptron(self.encoder, (block.vectors[self.source] - self.mean) / self.scale)
        return np.tanh(latent) if self.bounded else latent


@dataclass(frozen=True)
class Coordinate:
    """One dimension of a target: (n, 1). A `Target`."""

    target: Target
    number: int

    def __call__(self, block: Block) -> Floats:
        return np.ascontiguousarray(self.target(block)[:, self.number : self.number + 1])
