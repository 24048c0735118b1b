"""Fit a fusion to the modalities of a catalogue and to items that users take together."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learning.errors import LossDiverged
from learning.trainer import Trainer, train_in_process
from pipelines.fusion.frozen import Fusion
from pipelines.fusion.training import Directed, FusionTraining, network, weights
from pipelines.modalities import FusionError, Matrix, ModalityRows, mean_of
from pipelines.registry import FUSIONS, fusion_method_of
from pipelines.spec import FusionSpec
from tokenizer.arrays.executor import LOCAL_THREADS, Executor

NO_PAIRS: NDArray[np.int64] = np.empty((0, 2), np.int64)
COMPONENT_ROWS = 1 << 17
"""Most rows from which principal components are computed."""
MIN_VARIANCE = 1e-9
"""Smallest variance of a component relative to the first: less is rounding error, which whitening would amplify."""


@dataclass(frozen=True)
class FusionStart:
    """Fusion before its training: the mean of each modality that has rows, the initial weights, and statistics."""

    spec: FusionSpec
    means: dict[str, Matrix]
    arrays: dict[str, Matrix]
    statistics: dict[str, object]

    @classmethod
    def of(cls, items: Mapping[str, ModalityRows], spec: FusionSpec, work: Executor = LOCAL_THREADS) -> "FusionStart":
        """Start from the leading components of each modality. Raise FusionError if no item has a vector."""
        known = {name: items[name] for name in sorted(items) if items[name].present.any()}
        if not known:
            raise FusionError(
                "no item has a vector in any modality: check `text.fields`, the images, the logs, and the ids of given "
                "vectors."
            )
        means = {name: mean_of(each, work) for name, each in known.items()}
        arrays = {f"mean.{name}": mean for name, mean in means.items()} | _components(known, means, spec)
        statistics: dict[str, object] = {"rows": {name: int(each.present.sum()) for name, each in known.items()}}
        if not (member := FUSIONS.members[spec.method]).ours:
            statistics["method_from"] = member.origin
        return cls(spec, means, arrays, statistics)


def fit_fusion(
    items: Mapping[str, ModalityRows],
    spec: FusionSpec,
    pairs: NDArray[np.int64] = NO_PAIRS,
    before: Mapping[str, ModalityRows] | None = None,
    train: Trainer = train_in_process,
) -> Fusion:
    """Fit a fusion on the given modalities; one without rows is left out.

    `pairs` int64 (P, 2) are rows of items that users took together. `before` are the modalities as they were before
    that: training on a vector that contains the pairs would memorise them. Without pairs, every item is paired with
    itself, with different modalities dropped. With one modality and no pairs there is nothing to learn. Raise
    FusionError if no item has a vector, or the loss is not finite.
    """
    return train_fusion(FusionStart.of(items, spec), {**items, **(before or {})}, pairs, train)


def train_fusion(
    start: FusionStart, items: Mapping[str, ModalityRows], pairs: NDArray[np.int64], train: Trainer = train_in_process
) -> Fusion:
    """Train a fusion on pairs of rows of the given modalities, which may be those of some items only."""
    spec, arrays, seen = start.spec, start.arrays, {name: items[name] for name in start.means}
    usable = NO_PAIRS if fusion_method_of(spec.method).correction is None or not spec.epochs else _usable(seen, pairs)
    if not len(usable):
        return Fusion(spec, {**arrays, **weights(network(spec, arrays))}, start.statistics)
    training = FusionTraining(
        spec,
        {name: Directed(each, start.means[name]) for name, each in seen.items()},
        {name: each.present for name, each in seen.items()},
        usable,
        arrays,
    )
    try:
        loss = train(training, training.loop, "fusion")
    except LossDiverged as error:
        raise FusionError(f"the loss of the fusion is {error.loss}; lower fusion.learning_rate") from error
    statistics = {**start.statistics, "pairs": len(usable), "loss": loss}
    return Fusion(spec, {**arrays, **weights(training.module)}, statistics)


def _usable(seen: Mapping[str, ModalityRows], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return pairs whose items both have a vector; without pairs, each item of several modalities with itself."""
    modalities = np.sum([each.present for each in seen.values()], axis=0)
    if len(pairs):
        return np.asarray(pairs[(modalities[pairs] > 0).all(axis=1)])
    several = np.flatnonzero(modalities > 1)
    return np.column_stack([several, several]).astype(np.int64)


def _components(known: Mapping[str, ModalityRows], means: Mapping[str, Matrix], spec: FusionSpec) -> dict[str, Matrix]:
    """Return weights of a projection on leading principal components, each modality in its own dimensions.

    Narrow modalities come first: dimensions that they leave of an even share go to the others.
    """
    remaining, start = len(known), 0
    arrays: dict[str, Matrix] = {}
    for name in sorted(known, key=lambda name: (len(means[name]), name)):
        width = min(len(means[name]), (spec.dim - start) // remaining)
        present = np.flatnonzero(known[name].present)
        spread = present[:: -(-len(present) // COMPONENT_ROWS)]
        rows = known[name].take(spread).directed(means[name]).astype(np.float64)
        centre = rows.mean(axis=0)
        values, vectors = np.linalg.eigh((rows - centre).T @ (rows - centre) / len(rows))
        leading, variance = vectors[:, ::-1][:, :width], values[::-1][:width]
        signs = np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(width)])
        directions = leading * np.where(signs == 0, 1, signs) * spec.weights.get(name, 1.0)
        if spec.whiten:
            directions = directions * _whitening(variance)
        weight, bias = np.zeros((spec.dim, len(means[name])), np.float32), np.zeros(spec.dim, np.float32)
        weight[start : start + width] = directions.T
        bias[start : start + width] = -centre @ directions
        arrays[f"linear.{name}.weight"], arrays[f"linear.{name}.bias"] = weight, bias
        remaining, start = remaining - 1, start + width
    return arrays


def _whitening(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return factors (K,) that equalise the components' variances and keep their sum; a constant one gets 0."""
    varies = variance > MIN_VARIANCE * variance[0]
    mean = variance[varies].sum() / max(int(varies.sum()), 1)
    return np.asarray(np.sqrt(np.divide(mean, variance, out=np.zeros_like(variance), where=varies)), np.float64)
