"""Ids of the catalogue, for the events of one source."""

from collections.abc import Callable
from threading import Lock

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from storage.files.among import Among
from storage.lake import Lake
from tokenizer.arrays.id_rows import IdRows

Has = Callable[[pl.Series], NDArray[np.bool_]]
"""Returns for some ids whether they are certainly those of items."""
GROUP_ROWS = 1 << 13
"""Rows of the catalogue that are read for an id, about: those of a row group."""


class KnownItems:
    """A test of ids against the catalogue: few are looked up in the catalogue, many in an index of all its ids.

    The index takes some 30 bytes an item. It is built once lookups have read as many rows as the catalogue has: without
    it, each part of a large log would read most of them again.
    """

    def __init__(self, lake: Lake, has: Has | None) -> None:
        self._lake, self._has = lake, has
        self._found = pl.Series([], dtype=pl.String)
        self._rows_read = 0
        self._index: IdRows | None = None
        self._one_at_a_time = Lock()

    def known(self, items: pl.Series) -> pl.Series:
        """Return for each id whether the catalogue has it. Threads take turns."""
        with self._one_at_a_time:
            return self._known(items)

    def _known(self, items: pl.Series) -> pl.Series:
        each = items.to_arrow().cast(pa.large_string()).dictionary_encode()  # most ids of a log come again
        wanted = pl.Series(each.dictionary, dtype=pl.String)
        if self._index is None and not self._look_up(wanted):
            self._index = IdRows(_all_ids(self._lake))
        if self._index is not None:
            found = self._index.find(each.dictionary) >= 0
        else:
            found = wanted.is_in(self._found.implode()).to_numpy()
        return pl.Series(found[each.indices.to_numpy()], dtype=pl.Boolean)

    def _look_up(self, wanted: pl.Series) -> bool:
        """Add those of some distinct ids that are items to the ids found; return False where an index is cheaper."""
        fresh = wanted.filter(~wanted.is_in(self._found.implode()))
        if len(fresh) and self._has is not None:
            certain = pl.Series(self._has(fresh), dtype=pl.Boolean)
            self._found, fresh = self._found.append(fresh.filter(certain)), fresh.filter(~certain)
        if fresh.is_empty():
            return True
        items = self._lake.rows("items")
        self._rows_read += min(len(fresh) * GROUP_ROWS, items)
        if self._rows_read > items:
            return False
        rows = self._lake.read("items", columns=["item_id"], among=Among("item_id", fresh))
        self._found = self._found.append(pl.Series(rows.column("item_id"), dtype=pl.String).unique())
        return True


def known_items(lake: Lake, items: set[str]) -> set[str]:
    """Return those of some ids that the catalogue has."""
    rows = lake.read("items", columns=["item_id"], among=Among.of("item_id", items))
    return set(rows.column("item_id").to_pylist())


def _all_ids(lake: Lake) -> pa.Array:
    """Return the distinct ids of the catalogue."""
    ids = pl.Series(lake.read("items", columns=["item_id"]).column("item_id"), dtype=pl.String)
    return ids.unique().to_arrow().cast(pa.large_string())
