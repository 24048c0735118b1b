"""A synthetic shop of any size in Parquet: catalogue, given vectors and log. It is made in chunks, in flat memory.

Items are of kinds, of very different sizes; the vectors of a kind lie around a centre. Each user likes a few kinds and
mostly takes items of these, popular ones first. So behaviour tells what vectors tell, as in a shop.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

KINDS, WIDTH, NOISE = 2_000, 128, 0.7
EVENTS_OF_A_USER = 20
LIKED, FAITHFUL = 3, 0.8
"""Kinds that a user likes, and the share of the user's events that are of these kinds."""
DAYS = 30
START = datetime(2026, 6, 1, tzinfo=UTC)
CHUNK = 1 << 18
FILE_ROWS = 1 << 20
"""Rows of a file of given vectors."""


@dataclass(frozen=True)
class Delivery:
    """Paths of what a run reads: a catalogue, a folder of vectors and a log."""

    items: Path
    vectors: Path
    log: Path


def delivery_in(folder: Path) -> Delivery:
    """Return the paths of a delivery in a folder."""
    return Delivery(folder / "items.parquet", folder / "vectors", folder / "log.parquet")


class Shop:
    """The first `items` items of an endless catalogue: the same items whatever their number."""

    def __init__(self, items: int) -> None:
        self.items = items
        self._centres = np.random.default_rng(0).standard_normal((KINDS, WIDTH), dtype=np.float32)
        self._kind = np.concatenate([_kinds(start, stop) for start, stop in _chunks(0, items)])
        self._by_kind = np.argsort(self._kind, kind="stable").astype(np.int32)
        self._first = np.searchsorted(self._kind[self._by_kind], np.arange(KINDS + 1))

    def write(self, folder: Path, events: int, since: int = 0, day: int = 0, days: int = DAYS) -> Delivery:
        """Write the items from number `since` on, and events of all items on some days."""
        made = delivery_in(folder)
        made.vectors.mkdir(parents=True)
        with pq.ParquetWriter(made.items, _catalogue(np.zeros(0, np.int64), self._kind).schema) as writer:
            for start, stop in _chunks(since, self.items):
                writer.write_table(_catalogue(np.arange(start, stop), self._kind[start:stop]))
        for first in range(since, self.items, FILE_ROWS):
            self._write_vectors(made.vectors / f"part-{first:010}.parquet", first, min(first + FILE_ROWS, self.items))
        self.write_log(made.log, events, day, days)
        return made

    def _write_vectors(self, path: Path, first: int, end: int) -> None:
        kind = pa.list_(pa.float32(), WIDTH)
        schema = pa.schema([("item_id", pa.string()), ("vector", kind)])
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for start, stop in _chunks(first, end):
                draw = np.random.default_rng([1, start])
                rows = self._centres[self._kind[start:stop]]
                rows += NOISE * draw.standard_normal(rows.shape, dtype=np.float32)
                column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), WIDTH)
                writer.write_table(pa.table([_ids("B", np.arange(start, stop)), column], schema))

    def write_log(self, path: Path, events: int, day: int = 0, days: int = DAYS) -> None:
        """Write events in order of time. The users are the same on all days."""
        users = max(1, events * DAYS // days // EVENTS_OF_A_USER)
        liked = _kinds(0, users * LIKED, seed=2).reshape(users, LIKED)
        second = days * 86_400 / max(events, 1)
        writer: pq.ParquetWriter | None = None
        for start, stop in _chunks(0, events):
            draw = np.random.default_rng([3, day, start])
            user = draw.integers(0, users, stop - start)
            at = day * 86_400 + np.arange(start, stop) * second
            table = pl.DataFrame(
                {
                    "user_id": _ids("u", user),
                    "item_id": _ids("B", self._taken(liked[user], draw)),
                    "event_time": (START.timestamp() * 1e6 + at * 1e6).astype(np.int64),
                    "event_type": np.array(["view", "click", "buy"])[draw.choice(3, len(user), p=[0.8, 0.15, 0.05])],
                }
            ).with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")))
            arrow = table.to_arrow()
            writer = writer or pq.ParquetWriter(path, arrow.schema)
            writer.write_table(arrow)
        if writer is not None:
            writer.close()

    def _taken(self, liked: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.int64]:
        """Return the item of each event: of a kind that the user likes, or of any; popular items first."""
        count = len(liked)
        kind = liked[np.arange(count), draw.integers(0, LIKED, count)]
        first, stop = self._first[kind], self._first[kind + 1]
        strays = (draw.random(count) >= FAITHFUL) | (first == stop)
        first, stop = np.where(strays, 0, first), np.where(strays, self.items, stop)
        return self._by_kind[first + (draw.random(count) ** 2 * (stop - first)).astype(np.int64)].astype(np.int64)


def _kinds(start: int, stop: int, seed: int = 4) -> NDArray[np.int64]:
    """Return kinds, few of them large, int64 (stop - start,); they depend on `start` and `seed` alone."""
    return (np.random.default_rng([seed, start]).zipf(1.3, stop - start) % KINDS).astype(np.int64)


def _chunks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a range between multiples of CHUNK."""
    while start < stop:
        end = min(stop, (start // CHUNK + 1) * CHUNK)
        yield start, end
        start = end


def _ids(letter: str, numbers: NDArray[np.int64]) -> pa.Array:
    made = pl.select(pl.format(letter + "{}", pl.Series(numbers).cast(pl.String).str.zfill(9))).to_series()
    return made.to_arrow().cast(pa.string())


def _catalogue(numbers: NDArray[np.int64], kinds: NDArray[np.int64]) -> pa.Table:
    of = pl.DataFrame({"number": numbers, "kind": kinds[: len(numbers)]})
    named = of.select(title=pl.format("Item {} of kind {}", "number", "kind"), brand=pl.format("brand {}", "kind"))
    titles, brands = (named[name].to_arrow().cast(pa.string()) for name in ("title", "brand"))
    return pa.table({"item_id": _ids("B", numbers), "title": titles, "brand": brands})
