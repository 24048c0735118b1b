"""Collaborative vectors from logs before a cutoff: shifted positive PMI of item pairs, truncated SVD."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow.dataset as ds
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.linalg import svds

from pipelines.spec import CollaborativeSpec
from storage.lake import Lake


@dataclass(frozen=True)
class LogSlice:
    """What of the log may be seen: its version, arrivals up to `as_of` (inclusive), events before `cutoff`."""

    version: int
    as_of: datetime
    cutoff: datetime

    @property
    def content_hash(self) -> str:
        """Stands where other modalities have the hash of their content."""
        return f"interactions@{self.version}/as-of/{self.as_of.isoformat()}/before/{self.cutoff.isoformat()}"

    def read(self, lake: Lake, columns: list[str]) -> pl.DataFrame:
        """The visible events."""
        where = (ds.field("arrival_time") <= self.as_of) & (ds.field("event_time") < self.cutoff)
        return lake.frame("interactions", self.version, columns, where)


def describe_collaborative(spec: CollaborativeSpec) -> dict[str, Any]:
    """Everything but the log that decides these vectors."""
    return {"encoder": "sppmi-svd", **spec.model_dump()}


def collaborative_vectors(lake: Lake, log: LogSlice, spec: CollaborativeSpec) -> pl.DataFrame:
    """(item_id, vector) for every item with at least `min_events` events that share a user; no row for the others.

    The method is the implicit factorisation of skip-gram (Levy and Goldberg 2014) on user histories. The same log
    gives the same bytes whatever the order of its files.
    """
    events = log.read(lake, ["user_id", "item_id", "event_time", "event_id", "event_type", "impression"]).filter(
        ~pl.col("impression").fill_null(False) & ~pl.col("event_type").is_in(spec.exclude_events)
    )
    items, counts = _pair_counts(events, spec)
    information = _shifted_ppmi(counts, spec.shift)
    if len(items) < 3 or information.nnz == 0:  # users share no two items more often than chance would have it
        return pl.DataFrame(schema={"item_id": pl.String, "vector": pl.List(pl.Float32)})
    vectors = _factorise(information, spec)
    lively = np.flatnonzero(np.linalg.norm(vectors, axis=1) > 0)
    return pl.DataFrame(
        {"item_id": [items[row] for row in lively], "vector": vectors[lively].tolist()},
        schema={"item_id": pl.String, "vector": pl.List(pl.Float32)},
    )


def _pair_counts(events: pl.DataFrame, spec: CollaborativeSpec) -> tuple[list[str], csr_matrix]:
    """Symmetric counts of two items within `window` events of each other in one user's history."""
    histories = (
        events.filter(pl.len().over("item_id") >= spec.min_events)
        .sort("user_id", "event_time", "event_id")
        .group_by("user_id", maintain_order=True)
        .tail(spec.user_cap)
    )
    items = sorted(histories["item_id"].unique().to_list())
    index = histories["item_id"].replace_strict(items, range(len(items)), return_dtype=pl.Int64).to_numpy()
    users = histories["user_id"].rank("dense").to_numpy()
    counts = csr_matrix((len(items), len(items)), dtype=np.float64)
    for distance in range(1, spec.window + 1):
        near = users[distance:] == users[:-distance]
        left, right = index[distance:][near], index[:-distance][near]
        ones = np.ones(len(left))
        counts = counts + coo_matrix((ones, (left, right)), shape=counts.shape).tocsr()
    counts = counts + counts.T
    counts.setdiag(0)
    counts.eliminate_zeros()
    return items, counts


def _shifted_ppmi(counts: csr_matrix, shift: float) -> csr_matrix:
    """max(0, log(p(i, j) / (p(i) p(j))) - log(shift)), sparse as the counts are."""
    pairs = counts.tocoo()
    total, marginal = pairs.data.sum(), np.asarray(counts.sum(axis=1)).ravel()
    information = np.log(pairs.data * total / (marginal[pairs.row] * marginal[pairs.col])) - np.log(shift)
    kept = information > 0
    return csr_matrix((information[kept], (pairs.row[kept], pairs.col[kept])), shape=counts.shape)


def _factorise(information: csr_matrix, spec: CollaborativeSpec) -> NDArray[np.float32]:
    rank = min(spec.dim, information.shape[0] - 1)
    start = np.random.default_rng(spec.seed).standard_normal(information.shape[0])
    left, values, _ = svds(information, k=rank, v0=start)
    order = np.argsort(-values)
    vectors = left[:, order] * np.sqrt(values[order])
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(rank)])
    full = np.zeros((information.shape[0], spec.dim), dtype=np.float32)
    full[:, :rank] = vectors * np.where(signs == 0, 1, signs)
    return full
