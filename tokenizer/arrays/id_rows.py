"""Rows of ids among many: a look-up costs in proportion to what is looked up."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenizer.arrays.id_index import build_index, candidates
from tokenizer.arrays.items import tie_keys
from tokenizer.arrays.types import Array, Ints


@dataclass(frozen=True, eq=False)
class IdRows:
    """Distinct `ids`, an Arrow string array."""

    ids: pa.Array

    def find(self, sought: pa.Array) -> Ints:
        """Return the row of each id, int64 (M,); -1 where it is not among `ids`."""
        found = np.full(len(sought), -1, np.int64)
        if not len(self.ids) or not len(sought):
            return found
        hashed = tie_keys(sought)
        which, rows = candidates(hashed, self._index["id_order"], self._index["id_buckets"])
        likely = self._hashed[rows] == hashed[which]
        which, rows = which[likely], rows[likely].astype(np.int64)
        named = self.ids.take(pa.array(rows)).cast(sought.type)
        same = np.asarray(pc.equal(named, sought.take(pa.array(which))), np.bool_)
        found[which[same]] = rows[same]
        return found

    @cached_property
    def _hashed(self) -> NDArray[np.uint64]:
        return tie_keys(self.ids)

    @cached_property
    def _index(self) -> dict[str, Array]:
        return build_index(self._hashed, self.ids)
