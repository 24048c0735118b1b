"""The vectors that a level encodes, one of each item, and sums over them that are equal in any order of the items."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from tokenizer.arrays.distance import own_distance
from tokenizer.arrays.exact_sums import grid, sums_by_code, total
from tokenizer.arrays.executor import Executor
from tokenizer.arrays.types import Codes, Floats, Ints
from tokenizer.arrays.vectors import Block, Items, pieces
from tokenizer.balancing.costs import Squared, Target


@dataclass(frozen=True)
class Span:
    """Items from `start` to `stop`, with their codes of earlier levels, `prefix` (n, l), and of this one (n,)."""

    start: int
    stop: int
    prefix: Codes
    codes: Codes

    def read(self, items: Items) -> Block:
        """Return the vectors of the span."""
        return items.read(self.start, self.stop, self.prefix)


@dataclass(frozen=True)
class TargetVectors:
    """The target of each item under its codes so far, `prefix`. Vectors are read span by span, by `work`."""

    target: Target
    items: Items
    prefix: Codes
    work: Executor

    @classmethod
    def without_codes(cls, target: Target, items: Items, work: Executor) -> "TargetVectors":
        """Of items that have no code yet."""
        return cls(target, items, np.empty((len(items), 0), np.int32), work)

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: Ints) -> Floats:
        """Return the vectors of some items, in that order."""
        return self.target(self.items.take(rows, self.prefix[rows]))

    @cached_property
    def largest(self) -> float:
        """The largest absolute value."""
        tasks = ((start, stop, self.prefix[start:stop]) for start, stop in pieces(len(self)))
        return max(self.work.map(partial(_span_largest, self.target), self.items, tasks), default=0.0)

    @property
    def scale(self) -> float:
        """Values times this lie on a grid on which sums are exact."""
        return grid(self.largest, len(self))

    def sums(self, codes_N: Codes, codes: int, scale: float) -> tuple[Ints, Ints]:
        """Return the sums of the vectors of each code, times `scale`, and the number of its items."""
        sums: Ints | int = 0
        counts: Ints | int = 0
        task = partial(_span_sums, self.target, scale, codes)
        for part, count in self.work.map(task, self.items, self._spans(codes_N)):
            sums, counts = sums + part, counts + count
        return np.asarray(sums), np.asarray(counts)

    def means(self, codes_N: Codes, otherwise_KD: Floats) -> tuple[Floats, Ints]:
        """Return the mean of each code's vectors (K, D), `otherwise_KD` without items, and the items of each."""
        sums, counts = self.sums(codes_N, len(otherwise_KD), self.scale)
        means = (sums / (np.maximum(counts, 1) * self.scale)[:, None]).astype(np.float32)
        return np.where(counts[:, None] > 0, means, otherwise_KD), counts

    def moments(self) -> tuple[Floats, float]:
        """Return the mean, float32 (D,), and the sum of squared distances to it."""
        one = np.zeros(len(self), np.int32)
        sums, _ = self.sums(one, 1, self.scale)
        mean = (sums / (len(self) * self.scale)).astype(np.float32)
        return mean[0], self.distortion(mean, one)

    def deviation(self) -> Floats:
        """Return the standard deviation in each dimension, float32 (D,); 1 where the vectors do not vary."""
        one, count, largest = np.zeros(len(self), np.int32), len(self), self.largest
        scale, square_scale = grid(largest, count), grid(largest * largest, count)
        mean = self.sums(one, 1, scale)[0][0] / (count * scale)
        square = replace(self, target=Squared(self.target)).sums(one, 1, square_scale)[0][0] / (count * square_scale)
        found = np.sqrt(np.maximum(square - mean * mean, 0))
        return np.where(found > 1e-6 * max(largest, 1e-30), found, 1).astype(np.float32)

    def distortion(self, points_KD: Floats, codes_N: Codes) -> float:
        """Return the sum of squared distances to the points of the codes."""
        reach = self.largest + float(np.abs(points_KD).max(initial=0))
        scale = grid(points_KD.shape[1] * reach * reach, len(self))
        task = partial(_span_distance, self.target, points_KD, scale)
        return sum(self.work.map(task, self.items, self._spans(codes_N))) / scale

    def _spans(self, codes_N: Codes) -> Iterator[tuple[Span]]:
        return ((Span(at, stop, self.prefix[at:stop], codes_N[at:stop]),) for at, stop in pieces(len(self)))


def _span_largest(target: Target, items: Items, start: int, stop: int, prefix: Codes) -> float:
    return float(np.abs(target(items.read(start, stop, prefix))).max(initial=0))


def _span_sums(target: Target, scale: float, codes: int, items: Items, span: Span) -> tuple[Ints, Ints]:
    return sums_by_code(target(span.read(items)), scale, span.codes, codes)


def _span_distance(target: Target, points: Floats, scale: float, items: Items, span: Span) -> int:
    return total(own_distance(target(span.read(items)), points, span.codes), scale)
