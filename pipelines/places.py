"""Places of (item, content hash) pairs in a table of many, found for a few rows at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tokenizer.arrays.items import tie_keys
from tokenizer.arrays.ragged import spans

PAIR = ["item_id", "content_hash"]


@dataclass(frozen=True, eq=False)
class Places:
    """Rows `wanted` (PAIR), with their `order` by a hash of the id, and the hashes in that order.

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
        return cls(wanted.select(PAIR), order, hashed[order])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as Arrow, whose memory the processes of a machine share in Ray's object store."""
        return Places._unpickled, (self.wanted.to_arrow(), self.order, self.hashed)

    @classmethod
    def _unpickled(cls, wanted: pa.Table, order: NDArray[np.int64], hashed: NDArray[np.uint64]) -> "Places":
        return cls(pl.DataFrame(wanted), order, hashed)

    def find(self, pairs: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (row of `pairs`, row of `wanted`) wherever both name the same pair, in order of `pairs`."""
        sought = tie_keys(pairs["item_id"].to_arrow())
        first = np.searchsorted(self.hashed, sought, side="left")
        count = np.searchsorted(self.hashed, sought, side="right") - first
        row, place = np.repeat(np.arange(len(sought)), count), self.order[spans(first, count)]
        wanted_rows, pair_rows = self.wanted[place], pairs[row]
        same = (wanted_rows["item_id"] == pair_rows["item_id"]) & (
            wanted_rows["content_hash"] == pair_rows["content_hash"]
        )
        kept = same.fill_null(False).to_numpy()
        return row[kept], place[kept]
