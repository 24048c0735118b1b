"""Collaborative vectors: shifted positive PMI of co-consumed items, factorised once; later items are folded in."""

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

FEWEST_ITEMS = 3


@dataclass(frozen=True)
class Factors:
    """Result of a fit: directions (n, D) of the items it saw, the co-occurrence count of each (`met`), and their sum.

    An item's vector is its row of the PMI matrix with those items, projected on the directions. Directions of a
    factorisation (D = dim) give the vectors of items of the fit and of later items alike: later items are folded in and
    no vector moves. Directions of a sequence model (pipelines/collaborative/sequence_model.py) replace them (`sasrec`)
    or follow them (`both`), and place a later item near to where the model would place it. Each part of a vector then
    has length 1.
    """

    spec: CollaborativeSpec
    names: tuple[str, ...]
    directions: NDArray[np.float32]
    met: NDArray[np.float64]
    total: float

    def fold(self, log: Histories, rows: csr_matrix | None = None) -> pl.DataFrame:
        """Return (item_id, vector) of the items of a log that co-occur with items of the fit; others have no row.

        `rows` are `self.rows(log)`, if they are known.
        """
        rows = self.rows(log) if rows is None else rows
        vectors = np.asarray(RowBlocks(rows) @ self.directions.astype(np.float64), np.float32)
        if self.spec.method != "sppmi":
            vectors = np.hstack([unit(part) for part in self._parts(vectors)])
        lively = np.flatnonzero(vectors.any(axis=1))
        return vectors_of([log.names[row] for row in lively], vectors[lively])

    def rows(self, log: Histories) -> csr_matrix:
        """Return the positive PMI of a log's items with those of the fit, sparse float64 (names of the log, n)."""
        counts = log.counts(self.spec.window)
        known = np.array([self._row.get(name, -1) for name in log.names], np.int64)
        seen = counts[:, known >= 0].tocoo()
        place = known[known >= 0][seen.col]
        met = np.asarray(counts.sum(axis=1)).ravel()
        information = _shifted_ppmi(seen.data, met[seen.row], self.met[place], self.total, self.spec.shift)
        kept = information > 0
        shape = (len(log.names), len(self.names))
        rows = csr_matrix((information[kept], (seen.row[kept], place[kept])), shape=shape)
        rows.sort_indices()
        return rows

    def _parts(self, vectors: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Split vectors into the part of the factorisation, if any, and that of the sequence model."""
        return np.split(vectors, [self.spec.dim], axis=1) if self.spec.method == "both" else [vectors]

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


def fit_factors(log: Histories, spec: CollaborativeSpec) -> Factors | None:
    """Fit a truncated SVD of the shifted positive PMI of a log.

    This is the implicit factorisation of skip-gram (Levy and Goldberg 2014): the vectors are U sqrt(S), which are the
    rows of the matrix times U / sqrt(S). The same log gives the same bytes in any order of its files. Return None for
    fewer than FEWEST_ITEMS items, or if no two items share users more often than by chance.
    """
    fitted = fit_rows(log, spec)
    return None if fitted is None else fitted[0]


def fit_rows(log: Histories, spec: CollaborativeSpec) -> tuple[Factors, csr_matrix] | None:
    """Return `fit_factors`, and the rows of the log on them, which are the matrix that was factorised."""
    counts = log.counts(spec.window)
    met = np.asarray(counts.sum(axis=1)).ravel()
    pairs = counts.tocoo()
    del counts
    information = _shifted_ppmi(pairs.data, met[pairs.row], met[pairs.col], met.sum(), spec.shift)
    kept = information > 0
    if len(log.names) < FEWEST_ITEMS or not kept.any():
        return None
    matrix = csr_matrix((information[kept], (pairs.row[kept], pairs.col[kept])), shape=pairs.shape)
    del pairs, information, kept
    rank = min(spec.dim, matrix.shape[0] - 1)
    start = np.random.default_rng(spec.seed).standard_normal(matrix.shape[0])
    left, values, _ = svds(Symmetric(RowBlocks(matrix)), k=rank, v0=start)
    order = np.argsort(-values)
    left, values = left[:, order], values[order]
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(rank)])
    alive = values > 1e-9 * values[0]
    scaled = left * np.where(signs == 0, 1, signs) / np.sqrt(np.where(alive, values, 1)) * alive
    directions = np.zeros((len(log.names), spec.dim), np.float32)
    directions[:, :rank] = scaled
    return Factors(spec, log.names, directions, met, float(met.sum())), matrix


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors to length 1; a zero vector stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms == 0, 1, norms), np.float32)


def vectors_of(items: list[str], vectors: NDArray[np.float32]) -> pl.DataFrame:
    """Return a frame (item_id, vector) of items and their vectors (n, D)."""
    return pl.DataFrame(
        {"item_id": items, "vector": vectors},
        schema={"item_id": pl.String, "vector": pl.Array(pl.Float32, vectors.shape[1])},
    )


def _shifted_ppmi(
    count: NDArray[np.float64], one: NDArray[np.float64], other: NDArray[np.float64], total: float, shift: float
) -> NDArray[np.float64]:
    """Return log(p(i, j) / (p(i) p(j))) - log(shift) of pairs met `count` times; callers keep what is above 0."""
    return np.asarray(np.log(count * total / (one * np.maximum(other, 1e-300))) - np.log(shift))
