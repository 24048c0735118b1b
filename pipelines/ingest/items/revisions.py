"""Revisions of items: which content is new, and its rows in the table."""

from datetime import datetime

import polars as pl
import pyarrow as pa

from pipelines.ingest.accounting import content_key
from storage.lake import Lake
from storage.releases.catalogue import catalogue
from storage.schemas import ITEMS

CONTENT = ["item_id", "text_hash", "images", "deleted"]
"""An item that is equal to its newest revision in all of these is unchanged."""


def comparable(name: str, suffix: str = "") -> pl.Expr:
    """Return a column of CONTENT in a form that can be compared: lists of pictures as text."""
    column = pl.col(name + suffix)
    return column.list.join(",") if name == "images" else column


def new_or_changed(lake: Lake, items: pl.DataFrame, arrived_at: datetime, version: int) -> pl.DataFrame:
    """Return the items whose content differs from their newest revision at a version, as rows of the table."""
    newest = catalogue(lake, version, columns=CONTENT, among=items["item_id"])
    beside = items.join(newest, on="item_id", how="left", suffix="_before", maintain_order="left")
    same = [comparable(name).eq_missing(comparable(name, "_before")) for name in CONTENT[1:]]
    changed = beside.filter(pl.col("revision").is_null() | ~pl.all_horizontal(same))
    return changed.with_columns(
        revision=(pl.col("revision") + 1).fill_null(0).cast(pl.Int32),
        arrived_at=pl.lit(arrived_at, dtype=pl.Datetime("us", "UTC")),
    ).select(ITEMS.schema.names)


def revision_rows(revisions: pl.DataFrame) -> tuple[pa.Table, str]:
    """Return revisions as rows of the table, in order of their ids so that row groups have narrow bounds, and a key."""
    rows = revisions.select(ITEMS.schema.names).sort("item_id").to_arrow()
    return rows, content_key("items", revisions.select(*CONTENT, "revision").to_arrow())
