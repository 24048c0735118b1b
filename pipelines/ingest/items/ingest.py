"""Ingest a catalogue: validate rows, store pictures by hash, append a revision for each new or changed item."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa

from pipelines.counts import Counts
from pipelines.ingest.accounting import (
    IngestedSource,
    close_superseded,
    content_key,
    mapping_hash,
    names_of,
    naming,
    payload,
)
from pipelines.ingest.hash_set import SeenHashes
from pipelines.ingest.items.columns import ParsedItems, parse
from pipelines.ingest.items.lost import lost_columns
from pipelines.ingest.items.marks import deletion_marks, row_numbers, telling_names
from pipelines.ingest.items.rows import pictures_of, subject_of
from pipelines.ingest.parts import bounds, column_names, parsed_ahead, row_count, rows_at
from pipelines.ingest.pictures.fetch import TRANSIENT
from pipelines.ingest.pictures.ingest import Pictures
from pipelines.ingest.pictures.references import Reference
from pipelines.sources.cells import Refused
from pipelines.sources.protocol import Part, Source
from pipelines.sources.row import Row
from pipelines.sources.source_spec import ItemsSpec, ItemsWithoutImages
from storage.commit import Provenance, append_decided
from storage.files.among import one_of
from storage.lake import Lake
from storage.quarantine import PAYLOAD_LIMIT, Reject, open_rows, quarantine, resolve
from storage.reasons import ATTRIBUTES as ATTRIBUTE_STAGE
from storage.reasons import IMAGES as IMAGE_STAGE
from storage.reasons import ITEMS as STAGE
from storage.reasons import Reason
from storage.releases.catalogue import catalogue
from storage.schemas import ITEMS

CONTENT = ["item_id", "text_hash", "images", "deleted"]
"""An item that is equal to its newest revision in all of these is unchanged."""
CHUNK_ROWS = 1 << 17
"""Rows of a source that are converted, compared with the lake and written at once."""


def ingest_items(
    lake: Lake, source: Source, spec: ItemsSpec, arrived_at: datetime, provenance: Provenance
) -> IngestedSource:
    """Append the new or changed items of one source file; refused rows go to quarantine with their reason.

    Rows in = written + unchanged + quarantined. Pictures and attributes are counted as stages of their own; one that is
    refused leaves its item without it. Reading a file again, even after a kill, appends nothing that it gave before,
    and resolves rows that were refused before and pass now.
    """
    reader = _Reader(lake, source, spec)
    counts = reader.row_counts
    refused: set[str] = set()
    lost: tuple[str, ...] | None = None
    for part, parsed in parsed_ahead(source, spec, CHUNK_ROWS, lambda part: parse(part, spec)):
        with naming(source, *bounds(part)):
            items, rejects = reader.accepted(part, parsed)
            written = _write(lake, partial(_new_or_changed, lake, reader.fresh(items), arrived_at), provenance)
            if lost is None and (written["revision"] > 0).any():
                lost = lost_columns(lake, written, spec)
            counts.out += len(written)
            counts.unchanged += len(items) - len(written)
            quarantine(lake, rejects, provenance)
            refused.update(reject.id for reject in rejects)
            incomplete = {reject.subject for reject in rejects if reject.stage == ATTRIBUTE_STAGE}
            complete = items.filter(~pl.col("item_id").is_in(incomplete))
            _resolve_mended(lake, source, items, complete, provenance, reader.with_pictures)
    stages = [counts.check(), reader.image_counts.check(), reader.attribute_counts.check()]
    read = [stage for stage in stages if stage is not reader.image_counts or reader.with_pictures]
    close_superseded(lake, source, read, refused, provenance)
    return IngestedSource(
        source,
        "items",
        mapping_hash(spec),
        stages,
        reader.unread_pictures,
        lost or (),
        deletion_marks(reader.columns | source.unread_columns, spec),
        tuple(sorted(reader.row_numbers)),
        frozenset(reader.columns),
    )


class _Reader:
    """Reader of one source's rows: accepts each item once, stores pictures, and counts."""

    def __init__(self, lake: Lake, source: Source, spec: ItemsSpec) -> None:
        self._lake, self._source, self._spec = lake, source, spec
        self.row_counts = Counts(STAGE)
        self.attribute_counts, self.image_counts = Counts(ATTRIBUTE_STAGE), Counts(IMAGE_STAGE)
        self.unread_pictures = 0
        self.columns, self.row_numbers = set[str](), set[str]()
        self.with_pictures = not isinstance(spec, ItemsWithoutImages)
        self._pictures = Pictures(lake, source, spec)
        self._seen, self._ids = SeenHashes(), list[pl.Series]()
        where = one_of("source", names_of(lake, source, "items"))
        self._written = lake.frame("items", columns=CONTENT, where=where)

    def accepted(self, part: Part, parsed: ParsedItems) -> tuple[pl.DataFrame, list[Reject]]:
        """Return the items of a part with `images` and `source`, and the refused rows, attributes and pictures."""
        self.row_counts.rows_in += row_count(part)
        columns = telling_names(column_names(part), self._spec)
        self.columns |= columns
        self.row_numbers |= row_numbers(columns, parsed.items, self._spec)
        again = self._again(parsed.items["item_id"])
        items = parsed.items.filter(~again)
        refused = [*parsed.refused, *self._repeats(part, parsed.items.filter(again))]
        rejects = [self._refuse_row(row, error) for row, error in sorted(refused, key=lambda each: each[0].number)]
        rejects += self._unreadable_attributes(items, parsed)
        found: dict[int, list[str]] = {}
        if self.with_pictures:
            found, refused_pictures = self._stored(items, parsed)
            rejects += refused_pictures
        else:
            kept = set(items["source_row"]) if parsed.pictures else set()
            self.unread_pictures += sum(len(named) for row, (_, named) in parsed.pictures.items() if row in kept)
        return self._with_images(items, found).with_columns(source=pl.lit(self._source.name)), rejects

    def fresh(self, items: pl.DataFrame) -> pl.DataFrame:
        """Return the items that earlier readings of this file did not write, so that later changes are kept."""
        if self._written.is_empty():
            return items
        same = CONTENT if self.with_pictures else [name for name in CONTENT if name != "images"]
        return items.join(self._written, on=[_comparable(name) for name in same], how="anti", maintain_order="left")

    def _again(self, ids: pl.Series) -> pl.Series:
        """Return for each id whether an earlier row of the source has it."""
        hashes = ids.hash().to_numpy()
        known = self._seen.has(hashes)
        again = ~ids.is_first_distinct()
        if known.any():
            asked = ids.filter(pl.Series(known)).implode()
            before = pl.concat([each.filter(each.is_in(asked)) for each in self._ids])
            again |= ids.is_in(before.implode())
        self._seen.add(hashes[~known])
        self._ids.append(ids)
        return again

    def _repeats(self, part: Part, items: pl.DataFrame) -> Iterator[tuple[Row, Refused]]:
        for row, name in zip(rows_at(part, items["source_row"].to_list()), items["item_id"], strict=True):
            detail = f"{name!r} is in this source already; the first counts"
            yield row, Refused(Reason.DUPLICATE_ITEM_ID, detail)

    def _refuse_row(self, row: Row, error: Refused) -> Reject:
        self.row_counts.refuse(error.reason, row.rows, error.detail)
        return _reject(STAGE, error, self._source, row, subject_of(row, self._spec))

    def _unreadable_attributes(self, items: pl.DataFrame, parsed: ParsedItems) -> list[Reject]:
        """Count the items, and return those that lack attributes which cannot be read."""
        rejects = []
        if parsed.without:
            names = dict(items.select("source_row", "item_id").iter_rows())
            for row, unreadable in parsed.without.values():
                if row.number in names:
                    error = Refused(Reason.UNREADABLE_ATTRIBUTE, "; ".join(each.detail for each in unreadable))
                    self.attribute_counts.refuse(error.reason, 1, error.detail)
                    rejects.append(_reject(ATTRIBUTE_STAGE, error, self._source, row, names[row.number]))
        self.attribute_counts.rows_in += len(items)
        self.attribute_counts.out += len(items) - len(rejects)
        return rejects

    def _stored(self, items: pl.DataFrame, parsed: ParsedItems) -> tuple[dict[int, list[str]], list[Reject]]:
        """Store the pictures of items; return their hashes by row, and the pictures that were refused."""
        names = dict(items.select("source_row", "item_id").iter_rows())
        asked = ((row, named) for number, (row, named) in parsed.pictures.items() if number in names)
        stored, rejects = dict[int, list[str]](), list[Reject]()
        for row, found in self._pictures.stored(asked):
            self.image_counts.rows_in += len(found)
            stored[row.number] = [each for each in found if isinstance(each, str)]
            self.image_counts.out += len(stored[row.number])
            for reason, details in _by_reason(found).items():
                self.image_counts.refuse(reason, len(details), details[0])
                error = Refused(reason, "; ".join(details))
                column = self._spec.image if reason in TRANSIENT else None  # kept whole, to be fetched again
                rejects.append(_reject(IMAGE_STAGE, error, self._source, row, names[row.number], column))
        return stored, rejects

    def _with_images(self, items: pl.DataFrame, found: Mapping[int, list[str]]) -> pl.DataFrame:
        """Add the hashes of pictures; items whose pictures are not read keep those that are stored."""
        kind = pl.List(pl.String)
        if not self.with_pictures:
            known = catalogue(self._lake, columns=["images"], among=items["item_id"])
            before = items.join(known.select("item_id", "images"), on="item_id", how="left", maintain_order="left")
            return before.with_columns(pl.col("images").fill_null(pl.lit([], dtype=kind)))
        lists = [found.get(row, []) for row in items["source_row"]] if found else [[]] * len(items)
        return items.with_columns(images=pl.Series(lists, dtype=kind))


def _write(lake: Lake, decide: Callable[[int], pl.DataFrame], provenance: Provenance) -> pl.DataFrame:
    """Append the revisions that `decide` makes of a version of the catalogue, and return them.

    If another run writes revisions meanwhile, they are decided again. They are written in order of their ids, so that
    row groups have narrow bounds.
    """
    revisions = pl.DataFrame(schema=pl.DataFrame(ITEMS.schema.empty_table()).schema)

    def rows(version: int) -> tuple[pa.Table, str] | None:
        nonlocal revisions
        revisions = decide(version)
        if revisions.is_empty():
            return None
        key = content_key("items", revisions.select(*CONTENT, "revision"))
        return revisions.select(ITEMS.schema.names).sort("item_id").to_arrow(), key

    append_decided(lake, "items", rows, provenance)
    return revisions


def _comparable(name: str, suffix: str = "") -> pl.Expr:
    """Return a column of CONTENT in a form that can be compared: lists of pictures as text."""
    column = pl.col(name + suffix)
    return column.list.join(",") if name == "images" else column


def _new_or_changed(lake: Lake, items: pl.DataFrame, arrived_at: datetime, version: int) -> pl.DataFrame:
    """Return the items whose content differs from their newest revision at a version, as rows of the table."""
    newest = catalogue(lake, version, columns=CONTENT, among=items["item_id"])
    beside = items.join(newest, on="item_id", how="left", suffix="_before", maintain_order="left")
    same = [_comparable(name).eq_missing(_comparable(name, "_before")) for name in CONTENT[1:]]
    changed = beside.filter(pl.col("revision").is_null() | ~pl.all_horizontal(same))
    return changed.with_columns(
        revision=(pl.col("revision") + 1).fill_null(0).cast(pl.Int32),
        arrived_at=pl.lit(arrived_at, dtype=pl.Datetime("us", "UTC")),
    ).select(ITEMS.schema.names)


def _resolve_mended(
    lake: Lake,
    source: Source,
    items: pl.DataFrame,
    complete: pl.DataFrame,
    provenance: Provenance,
    with_pictures: bool,
) -> None:
    """Resolve rows that other sources had refused and whose content has now come through.

    This is the item itself for a row of the catalogue, all of its attributes (items in `complete`) for an attribute,
    and any picture of it for a picture.
    """
    elsewhere = open_rows(lake).filter(pl.col("source") != source.name)
    if elsewhere.is_empty():
        return
    ids = items["item_id"]
    pictured = items.filter(pl.col("images").list.len() > 0)["item_id"] if with_pictures else ids.clear()
    rows = elsewhere.filter(
        ((pl.col("stage") == STAGE) & pl.col("subject").is_in(ids.implode()))
        | ((pl.col("stage") == ATTRIBUTE_STAGE) & pl.col("subject").is_in(complete["item_id"].implode()))
        | ((pl.col("stage") == IMAGE_STAGE) & pl.col("subject").is_in(pictured.implode()))
    )
    resolve(lake, rows, f"came through in {source.name}", provenance)


def _by_reason(found: list[str | Refused]) -> dict[str, list[str]]:
    details: dict[str, list[str]] = {}
    for each in found:
        if isinstance(each, Refused):
            details.setdefault(each.reason, []).append(each.detail)
    return details


def _reject(
    stage: str, error: Refused, source: Source, row: Row, subject: str | None, whole: str | None = None
) -> Reject:
    return Reject(stage, error.reason, error.detail, source.name, row.number, subject, payload(row.values, whole))


def fetch_again(lake: Lake, spec: ItemsSpec, arrived_at: datetime, provenance: Provenance) -> int:
    """Fetch again the pictures that failed transiently; an item that now has all of its pictures gets a revision.

    Items that changed since are skipped: their newest row says which pictures they have. Return the revisions written.
    """
    missing = open_rows(lake).filter((pl.col("stage") == IMAGE_STAGE) & pl.col("reason").is_in(TRANSIENT))
    newest = _newest(lake, missing["subject"].to_list())
    asked: dict[str, tuple[dict[str, Any], list[Reference]]] = {}
    complete = pl.col("payload").str.len_chars() < PAYLOAD_LIMIT
    for row in missing.filter(complete).sort("subject").to_dicts():
        item = newest[row["subject"]]
        if (item["source"], item["source_row"]) != (row["source"], row["source_row"]):
            continue
        wanted = pictures_of(json.loads(row["payload"]), spec)
        if all(isinstance(each, str) and "://" in each for each in wanted):
            asked[row["subject"]] = (item, wanted)
    written = []
    for item, found in Pictures(lake, None, spec).stored(asked.values()):
        digests = [each for each in found if isinstance(each, str)]
        if len(digests) == len(found):
            revision = item["revision"] + 1
            written.append({**item, "images": digests, "revision": revision, "arrived_at": arrived_at})
    done = _write(lake, partial(_if_newest, lake, written), provenance)
    mended = missing.filter(pl.col("subject").is_in(done["item_id"].implode()))
    resolve(lake, mended, "fetched when asked again", provenance)
    return len(done)


def _newest(lake: Lake, items: list[str], version: int | None = None) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for row in catalogue(lake, version, among=items).to_dicts()}


def _if_newest(lake: Lake, revisions: list[dict[str, Any]], version: int) -> pl.DataFrame:
    """Return those revisions that follow the newest one of their item."""
    newest = _newest(lake, [row["item_id"] for row in revisions], version)
    kept = [row for row in revisions if row["revision"] == newest[row["item_id"]]["revision"] + 1]
    return pl.DataFrame(pa.Table.from_pylist(kept, schema=ITEMS.schema))
