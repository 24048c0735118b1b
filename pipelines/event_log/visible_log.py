"""User behaviour as arrays: the visible part of a log, and the items consumed near each other."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

import numpy as np
import polars as pl
import pyarrow.dataset as ds
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix

from pipelines.event_log.event_order import ORDER, in_order
from pipelines.spec import CollaborativeSection, CollaborativeSpec
from storage.lake import Lake
from storage.releases.manifest import Manifest

COLUMNS = ["item_id", "event_type", "impression", *ORDER]
# One day in microseconds.
DAY = 24 * 60 * 60 * 1_000_000
EXACT = 1 << 53
"""Sums of whole numbers below it are the same in float64 in any order."""


@dataclass(frozen=True)
class LogSlice:
    """Visible part of a log: a table version, arrivals up to `as_of` (inclusive), events before `cutoff`."""

    version: int
    as_of: datetime
    cutoff: datetime

    @classmethod
    def of(cls, manifest: Manifest) -> "LogSlice":
        """Return the visible log of a release."""
        return cls(manifest.versions["interactions"], manifest.as_of, manifest.cutoff)

    @property
    def content_hash(self) -> str:
        """Identity of the slice, in place of the content hash of other modalities."""
        return f"interactions@{self.version}/as-of/{self.as_of.isoformat()}/before/{self.cutoff.isoformat()}"

    @property
    def visible(self) -> ds.Expression:
        """Filter for the visible events."""
        return (ds.field("arrival_time") <= self.as_of) & (ds.field("event_time") < self.cutoff)

    def read(self, lake: Lake, columns: list[str]) -> pl.DataFrame:
        """Read the visible events."""
        return lake.frame("interactions", self.version, columns, self.visible)


@dataclass(frozen=True)
class EventArrays:
    """Events sorted by user, then by time, as arrays (n,).

    `user` is a number per user, `item` one per item, `time` is in microseconds since 1970, `weight` is how much an
    event counts.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    time: NDArray[np.int64]
    weight: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.item)

    def where(self, chosen: NDArray[np.bool_]) -> Self:
        """Return some of the events."""
        return replace(
            self,
            user=self.user[chosen],
            item=self.item[chosen],
            time=self.time[chosen],
            weight=self.weight[chosen],
        )

    def neighbours(self, window: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield indices (earlier, later) of a user's events at distance 1, 2, .. `window`, distance by distance."""
        for apart in range(1, min(window, len(self) - 1) + 1):
            later = np.flatnonzero(self.user[apart:] == self.user[:-apart]) + apart
            yield later - apart, later

    def pairs_since(self, window: int, since: int) -> NDArray[np.int64]:
        """Return pairs (earlier item, later item) of events at most `window` apart, the later at or after `since`.

        int64 (P, 2): by distance, then in event order.
        """
        found = [np.empty((0, 2), np.int64)]
        for earlier, later in self.neighbours(window):
            fresh = (self.time[later] >= since) & (self.item[earlier] != self.item[later])
            found.append(np.column_stack([self.item[earlier[fresh]], self.item[later[fresh]]]))
        return np.concatenate(found)


@dataclass(frozen=True)
class Histories(EventArrays):
    """The events of a log in memory; `item` indexes `names`, which are sorted."""

    names: tuple[str, ...]

    def newest(self, share: float) -> int:
        """Return the time at or after which about that share of the events lies; equal times are not split."""
        at = int(np.ceil(len(self) * (1 - share)))
        return int(np.sort(self.time)[min(at, len(self) - 1)]) if len(self) else 0

    def counts(self, window: int) -> csr_matrix:
        """Return symmetric weighted counts of different items at most `window` events apart, float64 (names, names).

        Fractional weights are added distance by distance; whole ones at once, which gives the same sums.
        """
        whole = bool((self.weight == np.rint(self.weight)).all())
        most = float(np.abs(self.weight).max(initial=0)) ** 2 * 2 * window * len(self)
        one_way = self._all_at_once(window) if whole and most < EXACT else self._by_distance(window)
        counts = one_way + one_way.T
        counts.setdiag(0)
        counts.eliminate_zeros()
        return counts

    def _by_distance(self, window: int) -> csr_matrix:
        size = len(self.names)
        counts = csr_matrix((size, size), dtype=np.float64)
        for earlier, later in self.neighbours(window):
            pairs = (self.item[earlier], self.item[later])
            weight = self.weight[earlier] * self.weight[later]
            counts = counts + coo_matrix((weight, pairs), shape=counts.shape).tocsr()
        return counts

    def _all_at_once(self, window: int) -> csr_matrix:
        size, item = len(self.names), self.item.astype(np.int32)
        found = [
            (item[earlier], item[later], self.weight[earlier] * self.weight[later])
            for earlier, later in self.neighbours(window)
        ]
        if not found:
            return csr_matrix((size, size), dtype=np.float64)
        one, other, weight = map(np.concatenate, zip(*found, strict=True))
        return coo_matrix((weight, (one, other)), shape=(size, size)).tocsr()

    def pairs(self, window: int, since: int) -> NDArray[np.int64]:
        """Return `pairs_since`, then all of them reversed."""
        return both_ways(self.pairs_since(window, since))


def both_ways(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return pairs (P, 2), then all of them reversed."""
    return np.concatenate([pairs, pairs[:, ::-1]])


def histories(events: pl.DataFrame, spec: CollaborativeSpec) -> Histories:
    """Return the behaviour in some events (COLUMNS), independent of their order.

    Impressions and excluded types do not count. Items with fewer than `min_events` events are left out; of each user
    the newest `user_cap` events are kept.
    """
    positive = events.filter(counted(spec)).filter(pl.len().over("item_id") >= spec.min_events)
    kept = in_order(positive).group_by("user_id", maintain_order=True).tail(spec.user_cap)
    names = sorted(kept["item_id"].unique().to_list())
    item = kept["item_id"].replace_strict(names, range(len(names)), return_dtype=pl.Int64)
    time = kept["event_time"].dt.epoch("us").to_numpy().astype(np.int64)
    weight = kept.select(type_weight(spec)).to_series().to_numpy()
    return Histories(
        names=tuple(names),
        user=kept["user_id"].rank("dense").to_numpy().astype(np.int64),
        item=item.to_numpy().astype(np.int64),
        time=time,
        weight=aged(weight, time, int(time.max()) if len(time) else 0, spec.half_life_days),
    )


def counted(spec: CollaborativeSection) -> pl.Expr:
    """Return the condition on an event (COLUMNS): it is behaviour, not an impression, and not of an excluded type."""
    return ~pl.col("impression").fill_null(False) & ~pl.col("event_type").is_in(spec.exclude_events)


def type_weight(spec: CollaborativeSpec) -> pl.Expr:
    """Return the weight of an event by its type."""
    return pl.col("event_type").replace_strict(spec.event_weights, default=1.0, return_dtype=pl.Float64)


def aged(
    weight: NDArray[np.float64], time: NDArray[np.int64], newest: int, half_life_days: float | None
) -> NDArray[np.float64]:
    """Return weights halved with each half-life of age, the time before the `newest` event."""
    if half_life_days is None:
        return weight
    return np.asarray(weight * 0.5 ** ((newest - time) / (half_life_days * DAY)), np.float64)
