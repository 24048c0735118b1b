"""Read the catalogue and its SIDs as a release sees them: newest item revisions, segments of the SID table."""

from collections.abc import Iterable
from datetime import datetime

import polars as pl
import pyarrow.compute as pc
import pyarrow.dataset as ds

from storage.files.among import Among, one_of
from storage.lake import Lake
from storage.releases.manifest import Manifest

NAMELESS = " erased "
"""Beginning of the id in the row of a SID whose item was erased: it stays taken. Ids of items begin with no blank."""


def catalogue(
    lake: Lake,
    version: int | None = None,
    as_of: datetime | None = None,
    columns: list[str] | None = None,
    among: Iterable[str] | None = None,
) -> pl.DataFrame:
    """Return one row per item, its newest revision that arrived by `as_of`, with deleted items, sorted by item_id.

    `among` restricts the read to some item ids.
    """
    where = None if as_of is None else ds.field("arrived_at") <= as_of
    wanted = None if columns is None else list(dict.fromkeys(["item_id", "revision", *columns]))
    frame = _in_order(_read_by_item(lake, "items", version, wanted, where, among), "item_id", "revision")
    newest = frame["item_id"][:-1] != frame["item_id"][1:]
    return frame if newest.all() else frame.filter(newest.extend_constant(True, 1))


def deleted_items(lake: Lake, version: int | None = None, as_of: datetime | None = None) -> set[str]:
    """Return ids of items whose newest revision is a deletion; memory grows with the items ever deleted."""
    ever = lake.frame("items", version, ["item_id"], ds.field("deleted"))["item_id"].unique().to_list()
    frame = catalogue(lake, version, as_of, ["deleted"], ever)
    return set(frame.filter("deleted")["item_id"])


def segments(
    lake: Lake,
    assignments: list[str],
    codebook: str,
    version: int | None = None,
    among: Iterable[str] | None = None,
    columns: list[str] | None = None,
) -> pl.DataFrame:
    """Return the SID rows of the assignments under one codebook, of all items or `among` some, sorted by item_id.

    SIDs of erased items are not among them.
    """
    where = in_segments(codebook, assignments) & ~nameless()
    return _in_order(_read_by_item(lake, "sids", version, columns, where, among), "item_id")


def _read_by_item(
    lake: Lake,
    table: str,
    version: int | None,
    columns: list[str] | None,
    where: ds.Expression | None,
    among: Iterable[str] | None,
) -> pl.DataFrame:
    """Read as `Lake.frame` does, files in order of their first item: what was ingested in order comes in order."""
    files = sorted(lake.data_files(table, version), key=lambda file: file.bounds.get("item_id", ("",))[0])
    return pl.DataFrame(lake.read_files(table, files, columns, where, items_among(among)))


def _in_order(rows: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """Return rows sorted by item_id and more; the same object if each item has one and these are in order."""
    ids = rows["item_id"]
    return rows if (ids[1:] > ids[:-1]).all() else rows.sort(*columns)


def count_sids(lake: Lake, codebook: str, assignments: Iterable[str], version: int | None = None) -> int:
    """Return the number of SIDs in the assignments, with those of deleted and erased items.

    They are counted from the log and footers alone.
    """
    return lake.count("sids", lake.version("sids") if version is None else version, in_segments(codebook, assignments))


def in_segments(codebook: str, assignments: Iterable[str]) -> ds.Expression:
    """Return a filter for the rows of the SID table in some segments of a codebook."""
    return (ds.field("codebook") == codebook) & one_of("assignment_id", assignments)


def nameless() -> ds.Expression:
    """Return a filter for the rows of the SID table whose item was erased."""
    return (ds.field("item_id") >= NAMELESS) & (ds.field("item_id") < NAMELESS[:-1] + "!")


def items_among(items: Iterable[str] | None) -> Among | None:
    """Return a filter for some items; None for all."""
    return None if items is None else Among.of("item_id", items)


def assigned_items(lake: Lake, manifest: Manifest) -> set[str]:
    """Return the ids of all items that have a SID in a release, including items deleted since, without erased ones."""
    where = in_segments(manifest.codebook.id, manifest.assignments) & ~nameless()
    rows = lake.read("sids", manifest.versions["sids"], ["item_id"], where)
    return set(pc.unique(rows["item_id"]).to_pylist())
