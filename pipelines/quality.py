"""Quality figures of an encoding, for a release's record."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipelines.event_log.event_order import ORDER, in_order
from pipelines.event_log.event_times import EventTimes
from storage.lake import Lake
from tokenizer.metrics import pair_agreement
from tokenizer.trie.groups import chance_agreement, collisions, level_usage
from tokenizer.trie.trie import Trie

WINDOW = 5
"""Largest distance between the two events of a pair, in events of the same user."""
EVENTS = 200_000
"""Events that are enough: of more, the newest are taken."""


def table_quality(trie: Trie, levels: int | None = None) -> dict[str, Any]:
    """Return the use of codes at each place, and collisions, of the SIDs of a release.

    `utilisation_of_fillable` covers the first `levels` places, by default all. A token after the codes counts the items
    of a SID, so few of its values are used if SIDs are spread well.
    """
    places = level_usage(trie)
    by_name = {name: [place[name] for place in places] for name in places[0]}
    used = by_name["utilisation"][:levels]
    filled = [share * size / min(size, max(1, len(trie))) for share, size in zip(used, trie.sizes, strict=False)]
    return {**by_name, "utilisation_of_fillable": filled, **collisions(trie)}


@dataclass(frozen=True)
class HeldOut:
    """Events unseen by fusion and codebook: visible by `as_of`, at or after the `cutoff` of the fit."""

    version: int
    as_of: datetime
    cutoff: datetime
    negative_events: tuple[str, ...]


def behaviour(lake: Lake, held_out: HeldOut, trie: Trie) -> dict[str, Any]:
    """Return the behaviour neighbour hit-rate (FORGE): the share of co-consumed item pairs that share 1, 2, .. codes.

    The share of random item pairs is returned too. Pairs are items of one user's held-out positive events, at most
    WINDOW apart. Of a longer log, only its EVENTS newest events are read. The result is empty without pairs.
    """
    found = consumed_together(lake, held_out, trie)
    if not len(found.pairs):
        return {}
    rows, places = np.unique(found.pairs, return_inverse=True)
    codes, pairs = trie.codes_of(rows), places.reshape(found.pairs.shape)
    return {
        "consumed_together_sharing": pair_agreement(codes, pairs),
        "consumed_together_error": clustered_error(codes[pairs[:, 0], 0] == codes[pairs[:, 1], 0], found.user),
        "consumed_together_pairs": len(pairs),
        "random_pairs_sharing": chance_agreement(trie),
    }


@dataclass(frozen=True)
class ConsumedTogether:
    """Pairs of items as rows of a trie, int64 (P, 2), and a number of the user of each, int64 (P,)."""

    pairs: NDArray[np.int64]
    user: NDArray[np.int64]


def consumed_together(lake: Lake, held_out: HeldOut, trie: Trie) -> ConsumedTogether:
    """Return the pairs of `behaviour`."""
    since = max(held_out.cutoff, _newest(lake, held_out) or held_out.cutoff)
    where = (ds.field("event_time") >= since) & (ds.field("arrival_time") <= held_out.as_of)
    columns = ["item_id", "event_type", "impression", *ORDER]
    log = lake.frame("interactions", held_out.version, columns, where).filter(
        ~pl.col("event_type").is_in(held_out.negative_events) & ~pl.col("impression").fill_null(False)
    )
    taken = log.select(pl.col("item_id").unique())
    placed = taken.with_columns(row=pl.Series(trie.find_rows(taken["item_id"].to_arrow()))).filter(pl.col("row") >= 0)
    ordered = in_order(log.join(placed, on="item_id"))
    user, row = ordered["user_id"].rle_id().cast(pl.Int64).to_numpy(), ordered["row"].to_numpy()
    apart, whose = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    for gap in range(1, min(WINDOW, max(0, len(row) - 1)) + 1):
        first = np.flatnonzero((user[gap:] == user[:-gap]) & (row[gap:] != row[:-gap]))
        apart.append(np.column_stack([row[first], row[first + gap]]))
        whose.append(user[first])
    return ConsumedTogether(np.concatenate(apart), np.concatenate(whose))


def clustered_error(hits: NDArray[np.bool_], cluster: NDArray[np.int64]) -> float | None:
    """Return the standard error of the share of `hits`, whose members of one cluster are not independent.

    It is that of a ratio of sums over clusters (Cochran, Sampling Techniques, section 6.4 of the third edition); None
    with fewer than two clusters.
    """
    sizes = np.bincount(cluster)
    inside = sizes > 0
    clusters = int(inside.sum())
    if clusters < 2:
        return None
    beyond = (np.bincount(cluster, weights=hits) - hits.mean() * sizes)[inside]
    return float(np.sqrt(np.square(beyond).sum() * clusters / (clusters - 1)) / len(hits))


def _newest(lake: Lake, held_out: HeldOut) -> datetime | None:
    """Return the time of the first of the EVENTS newest visible events, None if there are no more."""
    times = EventTimes(lake, held_out.version, held_out.as_of)
    count = len(times)
    return times[count - EVENTS] if count > EVENTS else None


def kept_codes(before: Trie, after: Trie) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the codes (n, L) in each of two tries, of the items that both hold."""
    rows = before.find_rows(after.item_ids)
    return before.codes()[rows[rows >= 0]], after.codes()[rows >= 0]


def churn(before_NL: NDArray[np.int32], after_NL: NDArray[np.int32]) -> dict[str, float]:
    """Return the share of items whose code changed, by level (`level_1`, ..), and whose SID changed (`full_sid`)."""
    changed = before_NL != after_NL
    items = max(1, len(changed))
    levels = {f"level_{level}": float(count / items) for level, count in enumerate(changed.sum(axis=0), start=1)}
    return {**levels, "full_sid": float(changed.any(axis=1).sum() / items)}
