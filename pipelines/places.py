"""Places of (item, content hash) pairs in a table of many, found for a few rows at a time.

Content hashes of many items are numbers of 128 bits here (storage.hashing.packed), or an Enum where few are distinct.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from storage.hashing.packed import Halves, from_halves, halves, packed
from tokenizer.arrays.items import tie_keys
from tokenizer.arrays.ragged import spans

PAIR = ["item_id", "content_hash"]
JOINED_ROWS = 1 << 20
"""Items that are joined at a time: a join takes several times the memory of what it joins."""


def aligned(ids: pl.Series, pairs: pl.DataFrame) -> pl.Series:
    """Return the content hash of each id, null for an id without a pair. Both are in order of distinct ids."""
    if pairs["item_id"].equals(ids):
        return pairs["content_hash"]
    parts = [pairs["content_hash"][:0]]
    for start in range(0, len(ids), JOINED_ROWS):
        some = ids[start : start + JOINED_ROWS]
        low = pairs["item_id"].search_sorted(some[0], "left")
        high = pairs["item_id"].search_sorted(some[-1], "right")
        both = some.to_frame("item_id").join(pairs[low:high], on="item_id", how="left", maintain_order="left")
        parts.append(both["content_hash"])
    return pl.concat(parts)


@dataclass(frozen=True, eq=False)
class Places:
    """Rows `wanted` (PAIR), with the `order` of those that have a hash by a hash of the id, and these in that order.

    A look-up costs in proportion to what is looked up; a join would go over all of `wanted` for each few rows.
    """

    wanted: pl.DataFrame
    order: NDArray[np.int64]
    hashed: NDArray[np.uint64]

    @classmethod
    def of(cls, wanted: pl.DataFrame) -> "Places":
        """Return the places of the rows of `wanted`."""
        hashed = tie_keys(wanted["item_id"].to_arrow())
        order = np.argsort(hashed, kind="stable")
        contents = wanted["content_hash"]
        if contents.null_count():
            order = order[contents.is_not_null().to_numpy()[order]]
        return cls(wanted.select(PAIR), order, hashed[order])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as Arrow, whose memory the processes of a machine share in Ray's object store."""
        contents = self.wanted["content_hash"]
        if contents.dtype != pl.UInt128:
            return Places._unpickled, (self.wanted.to_arrow(), None, self.order, self.hashed)
        numbers = halves(contents.fill_null(pl.lit(0, pl.UInt128)))
        return Places._unpickled, (self.wanted.select("item_id").to_arrow(), numbers, self.order, self.hashed)

    @classmethod
    def _unpickled(
        cls, wanted: pa.Table, numbers: Halves | None, order: NDArray[np.int64], hashed: NDArray[np.uint64]
    ) -> "Places":
        frame = pl.DataFrame(wanted)
        return cls(frame if numbers is None else frame.with_columns(from_halves(numbers)), order, hashed)

    def find(self, pairs: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (row of `pairs`, row of `wanted`) wherever both name the same pair, in order of `pairs`.

        The content hashes of `pairs` are texts.
        """
        sought = tie_keys(pairs["item_id"].to_arrow())
        first = np.searchsorted(self.hashed, sought, side="left")
        count = np.searchsorted(self.hashed, sought, side="right") - first
        row, place = np.repeat(np.arange(len(sought)), count), self.order[spans(first, count)]
        wanted_rows, pair_rows = self.wanted[place], pairs[row]
        contents = _as_type(pair_rows["content_hash"], wanted_rows["content_hash"].dtype)
        same = (wanted_rows["item_id"] == pair_rows["item_id"]) & (wanted_rows["content_hash"] == contents)
        kept = same.fill_null(False).to_numpy()
        return row[kept], place[kept]


def _as_type(hashes: pl.Series, kind: pl.DataType) -> pl.Series:
    """Return texts as another type; those that are none of it are null."""
    return packed(hashes) if kind == pl.UInt128 else hashes.cast(kind, strict=False)
