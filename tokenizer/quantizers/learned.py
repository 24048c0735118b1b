"""Learned quantizers: rq-vae (TIGER, arXiv 2305.05065) and fsq (RecGPT, based on arXiv 2309.15505).

After training they are plain arrays like any other codebook. A level encodes items in NumPy. Its costs are squared
distances of the latent to code vectors (rq-vae), or of one latent dimension to a grid (fsq).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from learning.errors import LossDiverged
from learning.trainer import Trainer, train_in_process
from tokenizer.arrays.executor import Executor
from tokenizer.arrays.types import Array, Floats
from tokenizer.arrays.vectors import ArrayRows, Items, spans
from tokenizer.balancing.assign_level import assign_level
from tokenizer.balancing.costs import CentroidLevel, Residual, Target
from tokenizer.codebook import Codebook
from tokenizer.errors import CodebookDiverged
from tokenizer.quantizers.fit_levels import Fitting
from tokenizer.quantizers.protocol import Fit, Quantizer, reads_one_source
from tokenizer.quantizers.vae.latent import Coordinate, Encoded, has_fixed_grid, layers_of, perceptron
from tokenizer.quantizers.vae.training import LATENT, VaeInputs
from tokenizer.spec import CodebookSpec


def fit(items: Items, spec: CodebookSpec, work: Executor, train: Trainer = train_in_process) -> Fit:
    """Train the network, then fix the code vectors and assign the latents of the items.

    The latents of the fitted items are held in memory, 4 bytes per dimension. Batches are drawn at random; if vectors
    are in Parquet, `spec.sample` keeps the fitted ones in memory. Raises VectorError for no items, CapacityExhausted
    when the levels hold fewer SIDs than planned, CodebookDiverged when the loss or its gradient is not finite.
    """
    fitting = Fitting.begin(items, spec, work)
    source, arrays = spec.levels[0].source, fitting.arrays
    scale = fitting.targets(0, Residual(source, ())).deviation()
    partner_mean = arrays.get(f"mean.{spec.learned.collaborative}")
    training = VaeInputs(spec, fitting.fitted, arrays[f"mean.{source}"], scale, partner_mean)
    trained = train_network(training, train)
    fitting.arrays = {f"mean.{source}": arrays[f"mean.{source}"], "scale": scale, **trained.arrays}
    if has_fixed_grid(spec):
        fitting.arrays.update({f"level{number}": grid(level.codes) for number, level in enumerate(spec.levels)})
    whole, fitting.fitted = fitting.fitted, _latents(fitting, source)
    _settle(fitting)
    return replace(fitting.done(loss=trained.loss), items=whole)


def level(codebook: Codebook, level: int) -> CentroidLevel:
    """Return squared distances of latents to the codes. The encoder runs again for each level."""
    target = _target(codebook.spec, codebook.arrays, _encoded(codebook.spec, codebook.arrays), level)
    return CentroidLevel(target, codebook.arrays[f"level{level}"])


def decode(codebook: Codebook, codes_NL: NDArray[np.int32], source: str) -> Floats:
    """Return the decoder's output for the code vectors, float32 (N, D)."""
    arrays = codebook.arrays
    parts = [arrays[f"level{level}"][codes_NL[:, level]] for level in range(codebook.levels)]
    quantized = np.concatenate(parts, axis=1) if has_fixed_grid(codebook.spec) else sum(parts[1:], parts[0])
    return perceptron(layers_of(arrays, "decoder"), quantized) * arrays["scale"] + arrays[f"mean.{source}"]


@dataclass(frozen=True)
class Trained:
    """The arrays of a trained network (see `VaeNet.arrays`), and its mean loss in each epoch."""

    arrays: dict[str, Array]
    loss: list[float] = field(default_factory=list)


def train_network(training: VaeInputs, train: Trainer = train_in_process) -> Trained:
    """Train the network. Raises CodebookDiverged when the loss or its gradient is not finite."""
    from tokenizer.quantizers.vae.trainable import VaeTrainable

    trainable = VaeTrainable(training)
    try:
        loss = train(trainable, trainable.loop, "codebook")
    except LossDiverged as error:
        gradient = ", and its gradient is not finite (NaN or infinity)" if math.isfinite(error.loss) else ""
        raise CodebookDiverged(
            f"the loss of the codebook is {error.loss}{gradient}: lower codebook.vae.learning_rate, or raise "
            "codebook.vae.warmup_steps"
        ) from error
    return Trained(trainable.module.arrays(), loss)


def grid(codes: int) -> Floats:
    """Return the grid values of a dimension, evenly spaced from -1 to 1, float32 (codes, 1)."""
    return np.linspace(-1, 1, codes, dtype=np.float32)[:, None]


def _encoded(spec: CodebookSpec, arrays: Mapping[str, Array]) -> Encoded:
    source = spec.levels[0].source
    encoder = layers_of(arrays, "encoder")
    return Encoded(source, arrays[f"mean.{source}"], arrays["scale"], encoder, has_fixed_grid(spec))


def _target(spec: CodebookSpec, arrays: Mapping[str, Array], latent: Target, level: int) -> Target:
    """Return the target of a level, given the latents."""
    if has_fixed_grid(spec):
        return Coordinate(latent, level)
    return Residual(latent, tuple((former, arrays[f"level{former}"]) for former in range(level)))


def _latents(fitting: Fitting, source: str) -> Items:
    """Return the latents of the fitted items."""
    task = partial(_span, _encoded(fitting.spec, fitting.arrays))
    fitted = replace(fitting.fitted, rows={source: fitting.fitted.rows[source]})
    parts = list(fitting.work.map(task, fitted, spans(len(fitted))))
    return Items({LATENT: ArrayRows(np.concatenate(parts))}, fitted.ties)


def _span(encoded: Encoded, items: Items, start: int, stop: int) -> Floats:
    return encoded(items.read(start, stop, np.empty((stop - start, 0), np.int32)))


def _settle(fitting: Fitting) -> None:
    """Fix, level by level, the final code vectors, and record the items' codes and the latent error."""
    spec, arrays, items, work = fitting.spec, fitting.arrays, fitting.fitted, fitting.work
    latent = Residual(LATENT, ())
    _, spread = fitting.targets(0, latent).moments()
    for number, level in enumerate(spec.levels):
        target, prefix = _target(spec, arrays, latent, number), fitting.codes[:, :number]
        if spec.learned.refit:
            found = fitting.clusters(number, target, arrays[f"level{number}"])
            arrays[f"level{number}"], codes, rounds = found.centroids, found.codes, found.rounds
        else:
            room = np.full(level.codes, fitting.room(number), np.int64)
            trained = CentroidLevel(target, arrays[f"level{number}"])
            codes, rounds = assign_level(trained, items, prefix, room, work).codes, 0
        lost = fitting.targets(number, target).distortion(arrays[f"level{number}"], codes)
        fitting.settle(number, codes, iterations=rounds, latent_error=lost / spread if spread > 0 else float(lost > 0))


def _check(spec: CodebookSpec) -> None:
    reads_one_source(spec)
    if has_fixed_grid(spec):
        if any(level.codes < 2 for level in spec.levels):
            raise ValueError("the codes of an fsq level must be at least 2, because a level is a grid of values")
        if spec.learned.sinkhorn or spec.learned.diversity or spec.learned.gradient == "rotation":
            raise ValueError(
                "sinkhorn, diversity and rotation are only for rq-vae, because the grid of fsq is not learnt; remove "
                "them"
            )
    if spec.learned.collaborative == spec.levels[0].source:
        raise ValueError(
            f"vae.collaborative = {spec.learned.collaborative!r} names the source that the levels encode already; name "
            "another source, or remove it"
        )


RQ_VAE = FSQ = Quantizer(fit, level, decode, trained=True, check=_check)
