"""Places of (item, content hash) pairs in a table of many, found for a few rows at a time."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tokenizer.arrays.items import tie_keys
from tokenizer.arrays.ragged import spans

PAIR = ["item_id", "content_hash"]


@dataclass(frozen=True)
class Places:
    """Rows `wanted` (PAIR), ordered by a hash of the id. A look-up costs in proportion to what is looked up.

    A join would go over all of `wanted` for each few rows.
    """

    wanted: pl.DataFrame

    def find(self, pairs: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (row of `pairs`, row of `wanted`) wherever both name the same pair, in order of `pairs`."""
        order, hashed = self._by_hash
        sought = tie_keys(pairs["item_id"].to_arrow())
        first = np.searchsorted(hashed, sought, side="left")
        count = np.searchsorted(hashed, sought, side="right") - first
        row, place = np.repeat(np.arange(len(sought)), count), order[spans(first, count)]
        wanted_rows, pair_rows = self.wanted[place], pairs[row]
        same = (wanted_rows["item_id"] == pair_rows["item_id"]) & (
            wanted_rows["content_hash"] == pair_rows["content_hash"]
        )
        kept = same.fill_null(False).to_numpy()
        return row[kept], place[kept]

    @cached_property
    def _by_hash(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        hashed = tie_keys(self.wanted["item_id"].to_arrow())
        order = np.argsort(hashed, kind="stable")
        return order, hashed[order]
