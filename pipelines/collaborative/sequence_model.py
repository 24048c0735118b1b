"""Collaborative vectors from the item tower of a sequence model, and directions that fold later items in beside them.

Shapes: N items of a log, D dimensions of the tower. The model is trained elsewhere: `fit_collaborative` is given how.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags

from pipelines.collaborative.sppmi import Factors, fit_factors, unit, vectors_of
from pipelines.event_log.visible_log import Histories
from pipelines.modalities import Matrix, Modality
from pipelines.spec import CollaborativeSpec

Ints = NDArray[np.int64]
Train = Callable[[list[list[Ints]], int], list[Matrix]]
"""(logs, N) -> item vectors float32 (N, D) after each log in turn; a log is a list of histories, rows of items oldest
first."""

RIDGE, ROUNDS, CLOSE = 1.0, 50, 1e-6
"""Of the directions: weight of their squared length, and when conjugate gradients end."""


@dataclass(frozen=True)
class Collaborative:
    """Frozen factors, vectors (item_id, vector) of the log they were fitted on, and of the events before `since`."""

    factors: Factors
    vectors: pl.DataFrame
    before: pl.DataFrame


def fit_collaborative(
    log: Histories, spec: CollaborativeSpec, since: int | None = None, train: Train | None = None
) -> Collaborative | None:
    """Fit on a log; None where users share no two items more than by chance.

    The vectors `before` know of no event at or after `since` (microseconds since 1970) but through directions that all
    items share; without `since` there are none. `train` is called where `spec.method` asks for a sequence model: on the
    events before `since`, then on all.
    """
    factors = fit_factors(log, spec)
    if factors is None:
        return None
    earlier = log.where(log.time < since) if since is not None else log.where(np.zeros(len(log), np.bool_))
    if spec.method == "sppmi":
        return Collaborative(factors, factors.fold(log), factors.fold(earlier))
    if train is None:
        raise ValueError(f'collaborative.method = "{spec.method}" was given nothing that trains a sequence model')
    before, now = _towers(earlier, log, train)
    directions = _directions(factors.rows(log), now)
    vectors, past = (vectors_of(_named(log, each), each.vectors[each.present]) for each in (now, before))
    if spec.method == "both":
        alone = replace(factors, spec=spec.model_copy(update={"method": "sppmi"}))
        vectors, past = _beside(alone.fold(log), vectors), _beside(alone.fold(earlier), past)
        directions = np.hstack([factors.directions, directions])
    return Collaborative(replace(factors, directions=directions), vectors, past)


def _towers(earlier: Histories, log: Histories, train: Train) -> tuple[Modality, Modality]:
    """The towers of the events before and of all, (N, D) each, the second turned onto the first.

    Orthogonal Procrustes over the items that both have: turning the later one leaves the earlier one without any
    knowledge of what came after it.
    """
    logs = [each for each in map(_sequences, (earlier, log)) if each]
    made = train(logs, len(log.names))
    towers = [_centred(vectors, each) for vectors, each in zip(made, logs, strict=True)]
    if len(towers) == 1:
        nothing = Modality(np.zeros_like(towers[0].vectors), np.zeros(len(log.names), np.bool_))
        return nothing, towers[0]
    before, now = towers
    shared = before.present & now.present
    left, _, right = np.linalg.svd(now.vectors[shared].T.astype(np.float64) @ before.vectors[shared])
    return before, Modality(np.asarray(now.vectors @ (left @ right), np.float32), now.present)


def _sequences(log: Histories) -> list[Ints]:
    """The items of each user with two events and more; others say nothing of what follows what."""
    users = np.split(log.item, np.flatnonzero(np.diff(log.user)) + 1)
    return [items for items in users if len(items) > 1]


def _centred(vectors: Matrix, sequences: list[Ints]) -> Modality:
    """Vectors seen from the mean of the items in the sequences, of length 1; no others are present."""
    present = np.zeros(len(vectors), np.bool_)
    present[np.concatenate(sequences)] = True
    there = Modality(vectors, present)
    return Modality(there.directed(there.mean()), present)


def _directions(rows: csr_matrix, tower: Modality) -> Matrix:
    """Directions (N, D) on which the PMI rows of length 1 of the items come near to their vectors: ridge regression.

    A map of the N-dimensional rows, not of their few leading factors, which leave most of a tower unexplained. Solved
    by conjugate gradients, each dimension on its own.
    """
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    scaled = (diags(scale * tower.present) @ rows).tocsr()
    transposed = scaled.T.tocsr()
    rest = np.asarray(transposed @ tower.vectors.astype(np.float64))
    found, step = np.zeros_like(rest), rest
    left = start = np.square(rest).sum(axis=0)
    for _ in range(ROUNDS):
        if (left <= CLOSE * start).all():
            break
        moved = transposed @ (scaled @ step) + RIDGE * step
        length = left / np.maximum((step * moved).sum(axis=0), np.finfo(np.float64).tiny)
        found, rest = found + length * step, rest - length * moved
        last, left = left, np.square(rest).sum(axis=0)
        step = rest + left / np.maximum(last, np.finfo(np.float64).tiny) * step
    return np.asarray(found, np.float32)


def _named(log: Histories, tower: Modality) -> list[str]:
    return [log.names[row] for row in np.flatnonzero(tower.present)]


def _beside(one: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """Two vectors of the items that have both, each of length 1, side by side."""
    joined = one.join(other, on="item_id", how="inner", maintain_order="left")
    parts = [unit(joined[name].to_numpy()) for name in ("vector", "vector_right")]
    return vectors_of(joined["item_id"].to_list(), np.hstack(parts))
