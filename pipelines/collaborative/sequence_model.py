"""Collaborative vectors from the item embeddings of a sequence model, and directions that fold in later items.

Shapes: N items of a log, D of the embeddings. The caller of `fit_collaborative` passes a training function.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix, diags

from pipelines.collaborative.sppmi import Factors, fit_rows, unit, vectors_of
from pipelines.event_log.visible_log import Histories
from pipelines.modalities import Matrix, Modality, mean_of
from pipelines.spec import CollaborativeSpec
from tokenizer.arrays.types import Ints

Train = Callable[[list[list[Ints]], int], list[Matrix]]
"""Function (logs, N) -> item vectors float32 (N, D) after each log in turn. A log is a list of histories: item rows,
oldest first.
"""

RIDGE, ROUNDS, CLOSE = 1.0, 50, 1e-6
"""Solver of `_directions`: ridge penalty, most iterations, and relative squared residual at its end."""


@dataclass(frozen=True)
class Collaborative:
    """Result of a fit: frozen factors, vectors (item_id, vector) of the whole log, and of the events before `since`."""

    factors: Factors
    vectors: pl.DataFrame
    before: pl.DataFrame


def fit_collaborative(
    log: Histories, spec: CollaborativeSpec, since: int | None = None, train: Train | None = None
) -> Collaborative | None:
    """Fit on a log; return None if no two items share users more often than by chance.

    Events at or after `since` (microseconds since 1970) affect the vectors `before` only through directions that all
    items share; without `since`, `before` is empty. `train` is called if `spec.method` needs a sequence model: on the
    events before `since`, then on all.
    """
    fitted = fit_rows(log, spec)
    if fitted is None:
        return None
    factors, rows = fitted
    earlier = log.where(log.time < since) if since is not None else log.where(np.zeros(len(log), np.bool_))
    if not spec.trains_sasrec:
        return Collaborative(factors, factors.fold(log, rows), factors.fold(earlier))
    if train is None:
        raise ValueError(
            f'collaborative.method = "{spec.method}" trains a sequence model, but the caller passed no trainer for one'
        )
    before, now = _item_embeddings(earlier, log, train)
    directions = _directions(rows, now)
    vectors, past = (vectors_of(_named(log, each), each.vectors[each.present]) for each in (now, before))
    if spec.has_both_parts:
        alone = replace(factors, spec=spec.model_copy(update={"method": "sppmi"}))
        vectors, past = (
            _concat_normalized(alone.fold(log, rows), vectors),
            _concat_normalized(alone.fold(earlier), past),
        )
        directions = np.hstack([factors.directions, directions])
    return Collaborative(replace(factors, directions=directions), vectors, past)


def _item_embeddings(earlier: Histories, log: Histories, train: Train) -> tuple[Modality, Modality]:
    """Return embeddings (N, D) from the earlier events and from all events, the second rotated onto the first.

    The rotation is orthogonal Procrustes over the items that both have. Only the later embeddings are rotated, so the
    earlier ones hold no information about later events.
    """
    logs = [each for each in map(_sequences, (earlier, log)) if each]
    made = train(logs, len(log.names))
    embeddings = [_centred(vectors, each) for vectors, each in zip(made, logs, strict=True)]
    if len(embeddings) == 1:
        nothing = Modality(np.zeros_like(embeddings[0].vectors), np.zeros(len(log.names), np.bool_))
        return nothing, embeddings[0]
    before, now = embeddings
    shared = before.present & now.present
    left, _, right = np.linalg.svd(now.vectors[shared].T.astype(np.float64) @ before.vectors[shared])
    return before, Modality(np.asarray(now.vectors @ (left @ right), np.float32), now.present)


def _sequences(log: Histories) -> list[Ints]:
    """Return the items of each user with at least two events; other users tell nothing about order."""
    users = np.split(log.item, np.flatnonzero(np.diff(log.user)) + 1)
    return [items for items in users if len(items) > 1]


def _centred(vectors: Matrix, sequences: list[Ints]) -> Modality:
    """Centre vectors on the mean of the items in the sequences, with length 1; other items are absent."""
    present = np.zeros(len(vectors), np.bool_)
    present[np.concatenate(sequences)] = True
    there = Modality(vectors, present)
    return Modality(there.directed(mean_of(there)), present)


def _directions(rows: csr_matrix, embeddings: Modality) -> Matrix:
    """Return directions (N, D) that map the items' PMI rows, scaled to length 1, to their vectors: ridge regression.

    The map acts on the N-dimensional rows: their few leading factors leave most of the vectors unexplained. Conjugate
    gradients solve each dimension on its own.
    """
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    scaled = (diags(scale * embeddings.present) @ rows).tocsr()
    transposed = scaled.T.tocsr()
    rest = np.asarray(transposed @ embeddings.vectors.astype(np.float64))
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


def _named(log: Histories, embeddings: Modality) -> list[str]:
    return [log.names[row] for row in np.flatnonzero(embeddings.present)]


def _concat_normalized(one: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """Concatenate the two vectors of each item that has both, each scaled to length 1."""
    joined = one.join(other, on="item_id", how="inner", maintain_order="left")
    parts = [unit(joined[name].to_numpy()) for name in ("vector", "vector_right")]
    return vectors_of(joined["item_id"].to_list(), np.hstack(parts))
