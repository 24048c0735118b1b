"""Fit a fusion to the modalities of a catalogue and to items that users take together."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from learning.errors import LossDiverged
from learning.trainer import Trainer, train_in_process
from pipelines.fusion.examples import NO_PAIRS, Examples, examples_of
from pipelines.fusion.frozen import Fusion
from pipelines.fusion.training import FusionTraining, network, weights
from pipelines.modalities import FusionError, Matrix, Modality
from pipelines.registry import FUSIONS
from pipelines.spec import FusionSpec

LEAST_VARIANCE = 1e-9
"""Smallest variance of a component relative to the first: less is rounding error, which whitening would amplify."""


def fit_fusion(
    items: Mapping[str, Modality],
    spec: FusionSpec,
    pairs: NDArray[np.int64] = NO_PAIRS,
    before: Mapping[str, Modality] | None = None,
    train: Trainer = train_in_process,
) -> Fusion:
    """Fit a fusion on the modalities of a catalogue; see `examples_of` and `fit_examples`."""
    return fit_examples(examples_of(items, spec, pairs, before), spec, train)


def fit_examples(examples: Examples, spec: FusionSpec, train: Trainer = train_in_process) -> Fusion:
    """Fit a fusion on examples. With one modality and no pairs there is nothing to learn.

    Raise FusionError if the loss is not finite.
    """
    means = examples.means
    arrays = {f"mean.{name}": mean for name, mean in means.items()} | _components(examples, spec)
    statistics: dict[str, object] = {"rows": examples.rows}
    if not (member := FUSIONS.members[spec.method]).ours:
        statistics["method_from"] = member.origin
    if not len(examples.pairs):
        return Fusion(spec, {**arrays, **weights(network(spec, arrays))}, statistics)
    training = FusionTraining(
        spec,
        {name: each.directed(means[name]) for name, each in examples.seen.items()},
        {name: each.present for name, each in examples.seen.items()},
        examples.pairs,
        arrays,
    )
    try:
        loss = train(training, training.loop, "fusion")
    except LossDiverged as error:
        raise FusionError(f"the loss of the fusion is {error.loss}; lower fusion.learning_rate") from error
    statistics |= {"pairs": len(examples.pairs), "loss": loss}
    return Fusion(spec, {**arrays, **weights(training.module)}, statistics)


def _components(examples: Examples, spec: FusionSpec) -> dict[str, Matrix]:
    """Return weights of a projection on leading principal components, each modality in its own dimensions.

    Narrow modalities come first: dimensions that they leave of an even share go to the others.
    """
    means, spread = examples.means, examples.spread
    left, start = len(means), 0
    arrays: dict[str, Matrix] = {}
    for name in sorted(means, key=lambda name: (len(means[name]), name)):
        width = min(len(means[name]), (spec.dim - start) // left)
        given = Modality(spread[name], np.ones(len(spread[name]), np.bool_))
        rows = given.directed(means[name]).astype(np.float64)
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
        left, start = left - 1, start + width
    return arrays


def _whitening(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return factors (K,) that equalise the components' variances and keep their sum; a constant one gets 0."""
    alive = variance > LEAST_VARIANCE * variance[0]
    even = variance[alive].sum() / max(int(alive.sum()), 1)
    return np.asarray(np.sqrt(np.divide(even, variance, out=np.zeros_like(variance), where=alive)), np.float64)
