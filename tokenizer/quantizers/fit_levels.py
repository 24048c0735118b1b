"""Steps of a fit that all quantizers share: sample, means, level-by-level results, statistics."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from learning.progress import emit
from tokenizer.arrays.executor import Executor
from tokenizer.arrays.types import Array, Floats
from tokenizer.arrays.vectors import Items
from tokenizer.balancing.costs import Residual, Target
from tokenizer.code_usage import level_metrics
from tokenizer.codebook import Codebook, plan
from tokenizer.quantizers.kmeans import Clusters, balanced_kmeans
from tokenizer.quantizers.protocol import Fit
from tokenizer.quantizers.target_vectors import TargetVectors
from tokenizer.spec import CodebookSpec


@dataclass
class Fitting:
    """A codebook fit in progress.

    `fitted` are the items it is fitted on, all or a sample. `arrays` grows level by level and starts with the mean of
    each source. `codes` (N, L) are those of the fitted items, -1 for levels that are not fitted yet.
    """

    spec: CodebookSpec
    items: int
    fitted: Items
    rng: np.random.Generator
    work: Executor
    capacity: tuple[int, ...]
    planned: int
    arrays: dict[str, Array]
    spread: dict[str, float]
    codes: NDArray[np.int32]
    levels: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def begin(cls, items: Items, spec: CodebookSpec, work: Executor) -> "Fitting":
        """Plan capacity, draw the sample by `spec.seed`, and compute mean and spread of the sources.

        Raises VectorError for no items, CapacityExhausted when the levels hold fewer SIDs than planned.
        """
        capacity, planned = plan(spec, len(items))
        rng = np.random.default_rng(spec.seed)
        fitted = items
        if spec.sample is not None and spec.sample < len(items):
            fitted = items.subset(np.sort(items.order[rng.choice(len(items), spec.sample, replace=False)]))
        targets = {source: TargetVectors.without_codes(Residual(source, ()), fitted, work) for source in fitted.rows}
        about = {source: each.moments() for source, each in targets.items()}
        return cls(
            spec=spec,
            items=len(items),
            fitted=fitted,
            rng=rng,
            work=work,
            capacity=capacity,
            planned=planned,
            arrays={f"mean.{source}": mean for source, (mean, _) in about.items()},
            spread={source: spread for source, (_, spread) in about.items()},
            codes=np.full((len(fitted), len(spec.levels)), -1, np.int32),
        )

    def room(self, level: int) -> int:
        """Return the number of fitted items that a code of a level may take."""
        codes = self.spec.levels[level].codes
        return math.ceil(self.spec.slack * len(self.fitted) / codes) if self.spec.balanced else len(self.fitted)

    def clusters(self, level: int, target: Target, start: Floats | None = None) -> Clusters:
        """Return balanced k-means of a level's target vectors, from centroids `start` (K, D) if they are known."""
        codes = self.spec.levels[level].codes
        vectors = self.targets(level, target)
        return balanced_kmeans(vectors, codes, self.room(level), self.spec.iterations, self.rng, start)

    def targets(self, level: int, target: Target) -> TargetVectors:
        """Return the vectors that a level encodes, of the fitted items."""
        return TargetVectors(target, self.fitted, self.codes[:, :level], self.work)

    def settle(self, level: int, codes_N: NDArray[np.int32], **figures: float) -> None:
        """Store the codes of a level, its code usage and other figures, and report them."""
        self.codes[:, level] = codes_N
        (use,) = level_metrics(codes_N[:, None], [self.spec.levels[level].codes])
        self.levels.append({**vars(use), **figures})
        error = f", relative error {figures['relative_error']:.4f}" if "relative_error" in figures else ""
        codes = self.spec.levels[level].codes
        used = f"{codes - use.dead_codes:,} of {codes:,} codes in use"
        emit(f"level {level + 1} of {len(self.spec.levels)}: {used}{error}")

    def error(self, source: str, distortion: float) -> float:
        """Return a sum of squared distances relative to that of the distances to the source's mean."""
        return distortion / self.spread[source] if self.spread[source] > 0 else float(distortion > 0)

    def done(self, **statistics: object) -> Fit:
        """Return the codebook of the arrays so far, and the codes of the items."""
        record = {"items": len(self.fitted), "levels": self.levels, **statistics}
        book = Codebook(self.spec, self.arrays, self.capacity, self.planned, self.items, record)
        return Fit(book, self.fitted, self.codes)
