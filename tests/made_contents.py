"""ItemContents of items that are made already, for stages under test."""

from typing import Any

import numpy as np
import polars as pl

from pipelines.embed.contents import ContentKind, ItemContents, PartContents
from pipelines.embed.item_rows import RowsHere
from pipelines.places import PAIR


def made_contents(items: pl.DataFrame, stage: Any = None) -> ItemContents:
    """Return contents (item_id, content_hash, what a stage reads) in the order in which the stage takes them."""
    by_id = items.sort("item_id").with_row_index("place")
    order = kind_of(stage).order
    rows = by_id if order is None else by_id.sort(order, descending=True, maintain_order=True)
    part = PartContents(RowsHere(rows.drop("place")), rows["place"].to_numpy().astype(np.int32))
    return ItemContents(by_id.select(PAIR), (part,))


def kind_of(stage: Any) -> ContentKind:
    """Return the kind of contents that are made already."""
    return ContentKind(lambda made: made, getattr(stage, "longest_first", None))
