"""Quantizers without learning: the baselines of TIGER (arXiv 2305.05065), lsh and random."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning.trainer import Trainer, train_in_process
from tokenizer.arrays.distance import BLOCK, blocked_product
from tokenizer.arrays.executor import Executor
from tokenizer.arrays.types import Array, Floats
from tokenizer.arrays.vectors import Block, Items
from tokenizer.balancing.assign_level import assign_level
from tokenizer.balancing.costs import CentroidLevel, Level, Projected, Residual
from tokenizer.codebook import Codebook
from tokenizer.quantizers.fit_levels import Fitting
from tokenizer.quantizers.protocol import Fit, Quantizer, reads_one_source
from tokenizer.spec import CodebookSpec

DECODER_ROWS = 1 << 16
"""Most items that the decoder of lsh is fitted on."""
STEP, MIXING = 0x9E3779B97F4A7C15, ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
"""Constants of splitmix64: increment, then shift and factor of each round."""


class Lsh:
    """Random hyperplanes through the mean, one per bit. A code holds the item's side of each hyperplane."""

    def fit(self, items: Items, spec: CodebookSpec, work: Executor, train: Trainer = train_in_process) -> Fit:
        """Draw the hyperplanes by `spec.seed`."""
        fitting = Fitting.begin(items, spec, work)
        mean = fitting.arrays[f"mean.{spec.levels[0].source}"]
        for number, level in enumerate(spec.levels):
            bits = level.codes.bit_length() - 1
            planes = fitting.rng.standard_normal((len(mean), bits)).astype(np.float32)
            fitting.arrays[f"planes{number}"] = planes / np.linalg.norm(planes, axis=0)
        nothing = np.empty((len(fitting.fitted), 0), np.int32)
        for number in range(len(spec.levels)):
            side = fitting.targets(0, self._side(spec, fitting.arrays, number))
            fitting.arrays[f"scale{number}"] = side.deviation()
        seen = fitting.fitted.take(fitting.fitted.order[:DECODER_ROWS], nothing[:DECODER_ROWS])
        levels = range(len(spec.levels))
        corners = np.concatenate(
            [
                np.sign(self._side(spec, fitting.arrays, level)(seen)) * fitting.arrays[f"scale{level}"]
                for level in levels
            ],
            axis=1,
        )
        centred = (seen.vectors[spec.levels[0].source] - mean).astype(np.float64)
        fitting.arrays["decoder"] = np.linalg.lstsq(corners.astype(np.float64), centred, rcond=None)[0].astype(
            np.float32
        )
        return _settled(fitting, self.level)

    def level(self, codebook: Codebook, level: int) -> CentroidLevel:
        """Return squared distances of projections to the corners of the codes; the nearest has equal signs."""
        return CentroidLevel(self._side(codebook.spec, codebook.arrays, level), self._corners(codebook, level))

    def decode(self, codebook: Codebook, codes_NL: NDArray[np.int32], source: str) -> Floats:
        """Return the mean plus a linear map of the corners, fitted to the items of the fit by least squares."""
        levels = range(codebook.levels)
        corners = np.concatenate([self._corners(codebook, level)[codes_NL[:, level]] for level in levels], axis=1)
        return blocked_product(corners, codebook.arrays["decoder"]) + codebook.arrays[f"mean.{source}"]

    def _side(self, spec: CodebookSpec, arrays: Mapping[str, Array], level: int) -> Projected:
        source = spec.levels[level].source
        return Projected(Residual(source, ()), arrays[f"mean.{source}"], arrays[f"planes{level}"])

    def _corners(self, codebook: Codebook, level: int) -> Floats:
        bits = codebook.arrays[f"planes{level}"].shape[1]
        signs = (np.arange(codebook.sizes[level])[:, None] >> np.arange(bits)) & 1
        return np.asarray((2 * signs - 1) * codebook.arrays[f"scale{level}"], np.float32)


@dataclass(frozen=True)
class RandomLevel:
    """Costs that are splitmix64 hashes of tie key, level and code: float32 in [0, 1). A `Level`.

    `codes` is the number of codes, `salt` the random number of the level.
    """

    codes: int
    salt: int

    def costs(self, block: Block) -> Iterator[tuple[slice, Floats]]:
        code = np.arange(self.codes, dtype=np.uint64) * np.uint64(STEP)
        for start in range(0, len(block), BLOCK):
            rows = slice(start, min(start + BLOCK, len(block)))
            mixed = (block.ties[rows] ^ np.uint64(self.salt))[:, None] + code
            for shift, factor in MIXING:
                mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
            mixed ^= mixed >> np.uint64(31)
            yield rows, (mixed >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)  # the upper 24 bits


class Random:
    """Random codes: splitmix64 hashes of the item id."""

    def fit(self, items: Items, spec: CodebookSpec, work: Executor, train: Trainer = train_in_process) -> Fit:
        """Draw a salt per level by `spec.seed`."""
        fitting = Fitting.begin(items, spec, work)
        fitting.arrays["salt"] = fitting.rng.integers(1 << 63, size=len(spec.levels)).astype(np.int64)
        return _settled(fitting, self.level)

    def level(self, codebook: Codebook, level: int) -> RandomLevel:
        """Return random costs of a level."""
        return RandomLevel(codebook.sizes[level], int(codebook.arrays["salt"][level]))

    def decode(self, codebook: Codebook, codes_NL: NDArray[np.int32], source: str) -> Floats:
        """Return the mean: a random code holds no information."""
        mean: Floats = codebook.arrays[f"mean.{source}"]
        return np.broadcast_to(mean, (len(codes_NL), len(mean))).copy()


def _settled(fitting: Fitting, level: Callable[[Codebook, int], Level]) -> Fit:
    """Assign the items of a fit, level by level, under the capacity of each code; return the fit with their codes."""
    book = fitting.done().codebook
    for number, spec in enumerate(book.spec.levels):
        room, prefix = np.full(spec.codes, fitting.room(number), np.int64), fitting.codes[:, :number]
        found = assign_level(level(book, number), fitting.fitted, prefix, room, fitting.work)
        fitting.settle(number, found.codes)
    return fitting.done()


def _check_bits(spec: CodebookSpec) -> None:
    reads_one_source(spec)
    if any(level.codes & (level.codes - 1) or level.codes < 2 for level in spec.levels):
        raise ValueError("the codes of an lsh level must be a power of two, at least 2: each hyperplane gives one bit")


LSH = Quantizer(Lsh().fit, Lsh().level, Lsh().decode, check=_check_bits)
RANDOM = Quantizer(Random().fit, Random().level, Random().decode, check=reads_one_source)
