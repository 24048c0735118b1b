"""The vectors that the levels of a codebook read, by source; items that lack one are quarantined."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.counts import Counts
from pipelines.fusion.fuse import Fused, Gathered
from pipelines.modalities import FUSED, ScratchModality
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import Reject, quarantine
from storage.reasons import Reason
from tokenizer.arrays.scratch import taken_rows
from tokenizer.arrays.vectors import Rows


@dataclass(frozen=True)
class IdColumn(Sequence[str]):
    """Ids of a column. Those that are read become Arrow's text, which takes as much memory again as a column."""

    column: pl.Series

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, place: Any) -> Any:
        """Return an id, or an Arrow array of some."""
        found = self.column[place]
        return found.to_arrow().cast(pa.large_string()) if isinstance(place, slice) else found


@dataclass(frozen=True)
class LevelVectors:
    """Vectors by source of a codebook, aligned with the items of `fused`; `counts` includes the refused items."""

    vectors: dict[str, Rows]
    fused: Fused
    counts: Counts

    @property
    def items(self) -> IdColumn:
        """Item ids."""
        return IdColumn(self.fused.items["item_id"])


def level_vectors(
    lake: Lake,
    fused: Fused,
    gathered: Gathered,
    sources: tuple[str, ...],
    provenance: Provenance,
    also: tuple[str, ...] = (),
) -> LevelVectors:
    """Return the vectors of the sources that the levels read; quarantine items that lack one.

    The sources in `also` are read too; an item that lacks one has a row of zeros.
    """
    place = _places(fused.items, gathered.items)
    kept, counts = np.arange(len(place)), Counts("assign", rows_in=len(place))
    others = [name for name in dict.fromkeys([*sources, *also]) if name != FUSED]
    none = ScratchModality.absent(gathered.items.height, 0)
    found = {name: gathered.modalities.get(name, none) for name in others}
    for name in others:
        if name in sources:
            having = found[name].present[place[kept]]
            detail = f"the item has no {name} vector, and a level of the codebook encodes these vectors"
            rejects = [
                Reject("assign", Reason.MISSING_SOURCE, detail, f"assign@{name}", 0, item)
                for item in fused.items["item_id"][kept[~having]]
            ]
            quarantine(lake, rejects, provenance)
            counts.refuse(Reason.MISSING_SOURCE, len(rejects), detail)
            kept = kept[having]
    chosen, rows = fused.take(kept), place[kept]
    vectors = {name: taken_rows(each.rows, rows) for name, each in found.items()}
    if FUSED in (*sources, *also):
        vectors[FUSED] = chosen.vectors
    counts.out = len(kept)
    return LevelVectors(vectors, chosen, counts.check())


def _places(items: pl.DataFrame, gathered: pl.DataFrame) -> NDArray[np.int64]:
    """Return the rows of items among those gathered."""
    if items is gathered:
        return np.arange(items.height)
    places = gathered.select("item_id").with_row_index("place")
    joined = items.select("item_id").join(places, on="item_id", how="left", maintain_order="left")
    return np.asarray(joined["place"].to_numpy(), np.int64)
