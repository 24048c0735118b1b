"""Collaborative vectors: shifted positive PMI of co-consumed items, factorised once; other items are folded in.

Shapes: N items of a log, F items of a fit, D dimensions.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from pipelines.collaborative.row_blocks import RowBlocks, Symmetric
from pipelines.event_log.visible_log import Histories
from pipelines.spec import CollaborativeSpec

MIN_ITEMS = 3
"""Items with behaviour below which there are no factors: the rank is less than their number, and 1 tells nothing."""


@dataclass(frozen=True)
class Factors:
    """Result of a fit: directions (F, D) of its items, the co-occurrence count of each (`met`), and the sum over all.

    An item's vector is its row of the PMI matrix with those items, projected on the directions. Directions of a
    factorisation (D = dim) give the vectors of items of the fit and of other items alike: these are folded in and no
    vector moves. Directions of a sequence model (pipelines/collaborative/sequence_model.py) replace them (`sasrec`)
    or follow them (`both`), and place a later item near to where the model would place it. Each part of a vector then
    has length 1.
    """

    spec: CollaborativeSpec
    names: tuple[str, ...]
    directions: NDArray[np.float32]
    met: NDArray[np.float64]
    total: float
    """Sum of the co-occurrence counts of all items of the log, those outside the fit included."""

    def fold(self, log: Histories, rows: csr_matrix | None = None) -> pl.DataFrame:
        """Return (item_id, vector) of the items of a log that co-occur with items of the fit; others have no row.

        `rows` are `self.rows(log)`, if they are known.
        """
        vectors = self.project(self.rows(log) if rows is None else rows)
        lively = np.flatnonzero(vectors.any(axis=1))
        return vectors_of([log.names[row] for row in lively], vectors[lively])

    def project(self, rows: csr_matrix) -> NDArray[np.float32]:
        """Return the vectors of PMI rows (n, F), float32 (n, D): 0 for an item without a positive entry."""
        vectors = np.asarray(RowBlocks(rows) @ self.directions.astype(np.float64), np.float32)
        if self.spec.trains_sasrec:
            vectors = np.hstack([unit(part) for part in self._parts(vectors)])
        return vectors

    def rows(self, log: Histories) -> csr_matrix:
        """Return the positive PMI of a log's items with those of the fit, sparse float64 (names of the log, F)."""
        counts = log.counts(self.spec.window)
        known = np.array([self._row.get(name, -1) for name in log.names], np.int64)
        near = csr_matrix(counts[:, known >= 0])
        place = known[known >= 0]
        near = csr_matrix((near.data, place[near.indices], near.indptr), (len(log.names), len(self.names)))
        near.sort_indices()
        return self.information(near, np.asarray(counts.sum(axis=1)).ravel())

    def information(self, counts: csr_matrix, met: NDArray[np.float64]) -> csr_matrix:
        """Return the positive PMI of items from their counts with those of the fit (n, F), and with all items (n,)."""
        return positive_pmi(counts, met, self.met, self.total, self.spec.shift)

    def _parts(self, vectors: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Split vectors into the part of the factorisation, if any, and that of the sequence model."""
        return np.split(vectors, [self.spec.dim], axis=1) if self.spec.has_both_parts else [vectors]

    @cached_property
    def _row(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}


def beside(log: Histories, names: Collection[str], window: int) -> list[str]:
    """Return the items that co-occur in a log with some items."""
    chosen = np.isin(np.array(log.names, object), list(names))
    return [log.names[item] for item in np.unique(log.counts(window)[chosen].indices)]


def describe_collaborative(spec: CollaborativeSpec) -> dict[str, Any]:
    """Return all settings that determine these vectors, except the log."""
    encoder = {"sppmi": "sppmi-svd", "sasrec": "sasrec", "both": "sppmi-svd+sasrec"}[spec.method]
    return {"encoder": encoder, **spec.model_dump(mode="json")}


def fit_rows(log: Histories, spec: CollaborativeSpec) -> tuple[Factors, csr_matrix] | None:
    """Fit on the most frequent items of a log; return the factors, and the PMI of all items with those (N, F).

    Return None for fewer than MIN_ITEMS items, or if no two items share users more often than by chance.
    """
    spec, counts = spec.for_items(len(log.names)), log.counts(spec.window)
    met = np.asarray(counts.sum(axis=1)).ravel()
    chosen = most_seen(np.bincount(log.item, minlength=len(log.names)), spec.fit_items)
    total = float(met.sum())
    rows = positive_pmi(counts[:, chosen], met, met[chosen], total, spec.shift)
    directions = factorised(rows if len(chosen) == len(met) else rows[chosen], spec)
    if directions is None:
        return None
    return Factors(spec, tuple(log.names[row] for row in chosen), directions, met[chosen], total), rows


def most_seen(seen: NDArray[np.int64], count: int | None) -> NDArray[np.int64]:
    """Return the `count` most frequent items (all of them for None), ascending; of equal ones those that come first."""
    if count is None or count >= len(seen):
        return np.arange(len(seen))
    return np.sort(np.argsort(-seen, kind="stable")[:count])


def factorised(matrix: csr_matrix, spec: CollaborativeSpec) -> NDArray[np.float32] | None:
    """Return directions (F, D) of the symmetric PMI of the items of a fit (F, F), by a truncated SVD.

    This is the implicit factorisation of skip-gram (Levy and Goldberg 2014): the vectors are U sqrt(S), which are the
    rows of the matrix times U / sqrt(S). The same log gives the same bytes in any order of its files. Return None for
    fewer than MIN_ITEMS items, or if the matrix is 0.
    """
    size = matrix.shape[0]
    if size < MIN_ITEMS or not matrix.nnz:
        return None
    rank = min(spec.dim, size - 1)
    start = np.random.default_rng(spec.seed).standard_normal(size)
    left, values, _ = svds(Symmetric(RowBlocks(matrix)), k=rank, v0=start)
    order = np.argsort(-values)
    left, values = left[:, order], values[order]
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(rank)])
    alive = values > 1e-9 * values[0]
    scaled = left * np.where(signs == 0, 1, signs) / np.sqrt(np.where(alive, values, 1)) * alive
    directions = np.zeros((size, spec.dim), np.float32)
    directions[:, :rank] = scaled + 0.0  # -0 becomes 0: ARPACK may turn a direction round, and the signs turn it back
    return directions


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors to length 1; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms == 0, 1, norms), np.float32)


def vectors_of(items: list[str] | pl.Series, vectors: NDArray[np.float32]) -> pl.DataFrame:
    """Return a frame (item_id, vector) of items and their vectors (n, D)."""
    return pl.DataFrame(
        {"item_id": items, "vector": vectors},
        schema={"item_id": pl.String, "vector": pl.Array(pl.Float32, vectors.shape[1])},
    )


def positive_pmi(
    counts: csr_matrix, one: NDArray[np.float64], other: NDArray[np.float64], total: float, shift: float
) -> csr_matrix:
    """Return the positive entries of log(p(i, j) / (p(i) p(j))) - log(shift), sparse float64.

    Pairs met `counts` times, row items `one` times, column items `other` times, of `total`.
    """
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    met = one[row] * np.maximum(other[counts.indices], 1e-300)
    information = np.log(counts.data * total / met) - np.log(shift)
    kept = information > 0
    starts = np.concatenate([[0], np.cumsum(kept)])[counts.indptr]
    return csr_matrix((information[kept], counts.indices[kept], starts), counts.shape)
