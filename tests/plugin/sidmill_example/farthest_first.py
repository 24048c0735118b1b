"""A quantizer: centroids of each level are items, each the farthest from those chosen before (Gonzalez 1985)."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from learning.trainer import Trainer
from tokenizer.arrays.executor import Executor
from tokenizer.arrays.vectors import Items
from tokenizer.balancing.assign_level import assign_level
from tokenizer.balancing.costs import CentroidLevel, Residual
from tokenizer.codebook import Codebook
from tokenizer.quantizers.fit_levels import Fitting
from tokenizer.quantizers.protocol import Fit, Quantizer, reads_one_source
from tokenizer.spec import CodebookSpec

Floats = NDArray[np.float32]


class Options(BaseModel):
    """`sample`: items that centroids are chosen from."""

    model_config = ConfigDict(extra="forbid")

    sample: int = Field(4096, ge=1)


def fit(items: Items, spec: CodebookSpec, work: Executor, train: Trainer) -> Fit:
    """Fit level after level. The items come in the order of their tie keys, so the order of arrival does not matter."""
    fitting = Fitting.begin(items, spec, work)
    rows = fitting.fitted.order[: Options.model_validate(spec.options).sample]
    for number, level in enumerate(spec.levels):
        target = _residual(spec, fitting.arrays, number)
        vectors = target(fitting.fitted.take(rows, fitting.codes[rows, :number]))
        centroids = _farthest_first(vectors, level.codes)
        fitting.arrays[f"level{number}"] = centroids
        room = np.full(level.codes, fitting.room(number), np.int64)
        prefix = fitting.codes[:, :number]
        found = assign_level(CentroidLevel(target, centroids), fitting.fitted, prefix, room, work)
        fitting.settle(number, found.codes)
    return fitting.done()


def level(codebook: Codebook, level: int) -> CentroidLevel:
    """Squared distances of a residual to the centroids."""
    return CentroidLevel(_residual(codebook.spec, codebook.arrays, level), codebook.arrays[f"level{level}"])


def decode(codebook: Codebook, codes_NL: NDArray[np.int32], source: str) -> Floats:
    """The sum of the centroids, float32 (N, D)."""
    parts = [codebook.arrays[f"level{level}"][codes_NL[:, level]] for level in range(codebook.levels)]
    return np.sum(parts, axis=0, dtype=np.float32)


def _residual(spec: CodebookSpec, arrays: Mapping[str, Floats], level: int) -> Residual:
    return Residual(spec.levels[0].source, tuple((former, arrays[f"level{former}"]) for former in range(level)))


def _farthest_first(vectors_ND: Floats, count: int) -> Floats:
    chosen = [0]
    nearest = np.full(len(vectors_ND), np.inf)
    for _ in range(count - 1):
        nearest = np.minimum(nearest, np.square(vectors_ND - vectors_ND[chosen[-1]]).sum(axis=1))
        chosen.append(int(nearest.argmax()))
    return vectors_ND[chosen].copy()


QUANTIZER = Quantizer(fit, level, decode, check=reads_one_source, options=Options)
