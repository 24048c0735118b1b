"""Attributes that the changed items of a source had before and have no more, as where a delivery lacks a column."""

import json

import polars as pl

from pipelines.sources.source_spec import ItemsSpec
from storage.files.among import Among
from storage.lake import Lake

LOOKED_AT = 32
"""Changed items of a source whose attributes are compared with those of the revision before."""


def lost_columns(lake: Lake, revisions: pl.DataFrame, spec: ItemsSpec) -> tuple[str, ...]:
    """Return the columns that had a value in items before these revisions, and have none in any of them.

    Of many revisions the first are compared, new and deleted items left out.
    """
    changed = revisions.filter((pl.col("revision") > 0) & ~pl.col("deleted")).head(LOOKED_AT)
    if changed.is_empty():
        return ()
    columns = ["item_id", "revision", "title", "attributes", "deleted", "images"]
    stored = lake.frame("items", columns=columns, among=Among("item_id", changed["item_id"]))
    before = changed.select("item_id", pl.col("revision") - 1).join(stored, on=["item_id", "revision"])
    kept = spec.not_attributes - {spec.title, spec.image}
    return tuple(sorted(_named(before, spec) - _named(changed, spec) - kept))


def _named(items: pl.DataFrame, spec: ItemsSpec) -> set[str]:
    """Return the columns that have a value in an item."""
    named = {name for each in items["attributes"] for name in json.loads(each)}
    if items["title"].is_not_null().any():
        named.add(spec.title)
    if spec.image and (items["images"].list.len() > 0).any():
        named.add(spec.image)
    return named
