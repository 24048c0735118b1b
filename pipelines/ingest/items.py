"""Ingest a catalogue: validate rows, store images by hash, append a revision for each new or changed item."""

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TypeVar

import polars as pl
import pyarrow as pa

from pipelines.counts import Counts
from pipelines.ingest.accounting import (
    BATCH_ROWS,
    IngestedSource,
    as_refused,
    close_superseded,
    content_key,
    lacking,
    mapping_hash,
    names_of,
    naming,
    payload,
)
from pipelines.ingest.fetch import TRANSIENT
from pipelines.ingest.languages import in_language
from pipelines.ingest.picture_references import Reference, references
from pipelines.ingest.pictures import Pictures
from pipelines.sources.cells import (
    Refused,
    Unreadable,
    boolean,
    check_depth,
    check_names,
    identifier,
    read_cell,
    text,
    values,
)
from pipelines.sources.files import Source
from pipelines.sources.reading import read_rows
from pipelines.sources.row import Row, grouped
from pipelines.sources.source_spec import ItemsSpec, ItemsWithoutImages
from storage.commit import Provenance, append
from storage.lake import Lake, one_of
from storage.quarantine import PAYLOAD_LIMIT, Reject, open_rows, quarantine, resolve
from storage.reasons import IMAGES as IMAGE_STAGE
from storage.reasons import ITEMS as STAGE
from storage.reasons import Reason
from storage.releases.catalogue import catalogue
from storage.schemas import ITEMS

T = TypeVar("T")

_COMPARED = ["text_hash", "images", "deleted"]  # an item equal in all of these is unchanged


def ingest_items(
    lake: Lake, source: Source, spec: ItemsSpec, arrived_at: datetime, provenance: Provenance
) -> IngestedSource:
    """Append the new or changed items of one source file; refused rows go to quarantine with their reason.

    Rows in = written + unchanged + quarantined. Pictures are counted as a separate stage; a refused picture leaves its
    item without it. Reading a file again, even after a kill, appends nothing that it gave before, and resolves rows
    that were refused before and pass now.
    """
    rows, images = Counts(STAGE), Counts(IMAGE_STAGE)
    seen: set[str] = set()
    refused: set[str] = set()
    wanted = not isinstance(spec, ItemsWithoutImages)
    given = {_content(row, wanted) for row in _given(lake, names_of(lake, source, "items"))}
    pictures = Pictures(lake, source, spec)
    unread = 0
    for batch in grouped(read_rows(source, spec), BATCH_ROWS):
        with naming(source, batch[0].number, batch[-1].number):
            rejects: list[Reject] = []
            items = list(_accepted(pictures, source, batch, spec, seen, rows, images, rejects))
            unread += sum(item.pop("unread") for item in items)
            if not wanted:
                _keep_pictures(lake, items)
            new = [item for item in items if _content(item, wanted) not in given]
            written = _new_or_changed(lake, new, arrived_at)
            rows.out += len(written)
            rows.unchanged += len(items) - len(written)
            _write(lake, written, provenance)
            quarantine(lake, rejects, provenance)
            refused.update(reject.id for reject in rejects)
            _resolve_mended(lake, source, items, provenance, wanted)
    stages = [rows.check(), images.check()]
    close_superseded(lake, source, stages if wanted else stages[:1], refused, provenance)
    return IngestedSource(source, "items", mapping_hash(spec), stages, unread)


def _write(lake: Lake, revisions: list[dict[str, Any]], provenance: Provenance) -> None:
    if revisions:
        key = content_key("items", (part for row in revisions for part in (*_content(row), row["revision"])))
        append(lake, "items", pa.Table.from_pylist(revisions, schema=ITEMS.schema), key, provenance)


def _content(item: dict[str, Any], pictured: bool = True) -> tuple[Any, ...]:
    return (item["item_id"], item["text_hash"], tuple(item["images"]) if pictured else (), item["deleted"])


def _given(lake: Lake, names: list[str]) -> list[dict[str, Any]]:
    """Return the items that earlier readings of a file wrote, so that later changes by another file are kept."""
    rows = lake.read("items", columns=["item_id", *_COMPARED], where=one_of("source", names))
    found: list[dict[str, Any]] = rows.to_pylist()
    return found


def _keep_pictures(lake: Lake, items: list[dict[str, Any]]) -> None:
    """Keep the stored pictures of items whose pictures were not read."""
    known = catalogue(lake, columns=["images"], among=[item["item_id"] for item in items])
    images = dict(known.select("item_id", "images").iter_rows())
    for item in items:
        item["images"] = list(images.get(item["item_id"], []))


def _resolve_mended(
    lake: Lake, source: Source, items: list[dict[str, Any]], provenance: Provenance, pictured_too: bool
) -> None:
    """Resolve refused rows of other sources whose item (or its image) has now come through."""
    whole = {item["item_id"] for item in items}
    pictured = {item["item_id"] for item in items if pictured_too and item["images"]}
    rows = open_rows(lake).filter(
        (pl.col("source") != source.name)
        & (
            ((pl.col("stage") == STAGE) & pl.col("subject").is_in(sorted(whole)))
            | ((pl.col("stage") == IMAGE_STAGE) & pl.col("subject").is_in(sorted(pictured)))
        )
    )
    resolve(lake, rows, f"came through in {source.name}", provenance)


def _accepted(
    pictures: Pictures,
    source: Source,
    batch: list[Row],
    spec: ItemsSpec,
    seen: set[str],
    rows: Counts,
    images: Counts,
    rejects: list[Reject],
) -> Iterator[dict[str, Any]]:
    """Yield the item of every accepted row, without revision and arrival; count and reject the others."""
    told = _told(source, batch, spec, seen, rows, rejects)
    asked = told if not isinstance(spec, ItemsWithoutImages) else ((each, []) for each, _ in told)
    for (row, item), found in pictures.stored(asked):
        images.rows_in += len(found)
        digests = [each for each in found if isinstance(each, str)]
        images.out += len(digests)
        for reason, details in _by_reason(found).items():
            images.refuse(reason, len(details), details[0])
            refused = Refused(reason, "; ".join(details))
            asked_again = spec.image if reason in TRANSIENT else None
            rejects.append(_reject(IMAGE_STAGE, refused, source, row, item["item_id"], asked_again))
        yield {**item, "images": digests, "source": source.name, "source_row": row.number}


def _by_reason(found: list[str | Refused]) -> dict[str, list[str]]:
    details: dict[str, list[str]] = {}
    for each in found:
        if isinstance(each, Refused):
            details.setdefault(each.reason, []).append(each.detail)
    return details


def _told(
    source: Source, batch: list[Row], spec: ItemsSpec, seen: set[str], rows: Counts, rejects: list[Reject]
) -> Iterator[tuple[tuple[Row, dict[str, Any]], list[Reference]]]:
    """Yield the item data of every accepted row, and the pictures it names."""
    for row in batch:
        rows.rows_in += row.rows
        try:
            item, pictures = _item(row, spec), _images(row.values, spec)
            if item["item_id"] in seen:
                raise Refused(
                    Reason.DUPLICATE_ITEM_ID, f"{item['item_id']!r} is in this source already; the first counts"
                )
        except Exception as raised:  # noqa: BLE001 - any exception of a row refuses only that row
            error = as_refused(raised)
            rows.refuse(error.reason, row.rows, error.detail)
            rejects.append(_reject(STAGE, error, source, row, _subject(row, spec)))
            continue
        seen.add(item["item_id"])
        unread = len(pictures) if isinstance(spec, ItemsWithoutImages) else 0
        yield (row, {**item, "unread": unread}), pictures


def _subject(row: Row, spec: ItemsSpec) -> str | None:
    try:
        return read_cell(row.values, spec.item_id, identifier)
    except Refused:
        return None


def _item(row: Row, spec: ItemsSpec) -> dict[str, Any]:
    if row.reason is not None:
        raise Refused(row.reason, row.detail)
    item_id = read_cell(row.values, spec.item_id, identifier)
    if item_id is None:
        raise Refused(Reason.MISSING_ITEM_ID, lacking(row, spec.item_id, "items.item_id"))
    title = read_cell(row.values, spec.title, _spoken(text, spec))
    if spec.require_title and not title:
        raise Refused(Reason.EMPTY_TITLE, lacking(row, spec.title, "items.title"))
    own = {spec.item_id, spec.title, spec.image, spec.deleted}
    check_names(row.values)
    attributes = {name: read_cell(row.values, name, _spoken(values, spec)) for name in row.values if name not in own}
    described = json.dumps({name: value for name, value in attributes.items() if value}, sort_keys=True)
    characters = len(title) + len(described)
    if characters > spec.max_text_chars:
        raise Refused(
            Reason.TEXT_TOO_LONG, f"{characters} characters of text, at most {spec.max_text_chars} are accepted"
        )
    deleted = read_cell(row.values, spec.deleted or None, boolean) or False
    if not (deleted or title or described != "{}" or _images(row.values, spec)):
        raise Refused(Reason.NO_CONTENT, "neither text nor image")
    return {
        "item_id": item_id,
        "title": title or None,
        "attributes": described,
        "text_hash": hashlib.blake2b(f"{title}\0{described}".encode(), digest_size=16).hexdigest(),
        "deleted": deleted,
    }


def _spoken(convert: Callable[[Any, str], T], spec: ItemsSpec) -> Callable[[Any, str], T]:
    """Wrap `convert` to take cells in the wanted languages, if any are set."""
    if not spec.languages:
        return convert
    return lambda value, column: convert(in_language(value, spec.languages), column)


def _images(row: dict[str, Any], spec: ItemsSpec) -> list[Reference]:
    return read_cell(row, spec.image or None, _references)


def _references(value: Any, column: str) -> list[Reference]:
    if isinstance(value, list | tuple | dict):
        check_depth(value, column)
    return references(text(value, column) if isinstance(value, Unreadable) else value)


def fetch_again(lake: Lake, spec: ItemsSpec, arrived_at: datetime, provenance: Provenance) -> int:
    """Fetch again the pictures that failed transiently; an item that now has all of its pictures gets a revision.

    Items that changed since are skipped: their newest row says which pictures they have. Return the revisions written.
    """
    missing = open_rows(lake).filter((pl.col("stage") == IMAGE_STAGE) & pl.col("reason").is_in(TRANSIENT))
    newest = {row["item_id"]: row for row in catalogue(lake, among=missing["subject"].to_list()).to_dicts()}
    asked = []
    whole = pl.col("payload").str.len_chars() < PAYLOAD_LIMIT
    for row in missing.filter(whole).unique("subject").sort("subject").to_dicts():
        item, wanted = newest[row["subject"]], _images(json.loads(row["payload"]), spec)
        same_row = (item["source"], item["source_row"]) == (row["source"], row["source_row"])
        if same_row and all(isinstance(each, str) and "://" in each for each in wanted):
            asked.append((item, wanted))
    written = []
    for item, found in Pictures(lake, None, spec).stored(asked):
        digests = [each for each in found if isinstance(each, str)]
        if len(digests) == len(found):
            revision = item["revision"] + 1
            written.append({**item, "images": digests, "revision": revision, "arrived_at": arrived_at})
    if written:
        _write(lake, written, provenance)
        mended = missing.filter(pl.col("subject").is_in([row["item_id"] for row in written]))
        resolve(lake, mended, "fetched when asked again", provenance)
    return len(written)


def _new_or_changed(lake: Lake, items: list[dict[str, Any]], arrived_at: datetime) -> list[dict[str, Any]]:
    """Return the items whose content differs from their newest revision, as rows of the table."""
    known = catalogue(lake, columns=_COMPARED, among=[item["item_id"] for item in items])
    newest = {row["item_id"]: row for row in known.to_dicts()}
    rows = []
    for item in items:
        before = newest.get(item["item_id"])
        if before is None or _content(before) != _content(item):
            revision = 0 if before is None else before["revision"] + 1
            rows.append({**item, "revision": revision, "arrived_at": arrived_at})
    return rows


def _reject(
    stage: str, error: Refused, source: Source, row: Row, subject: str | None, whole: str | None = None
) -> Reject:
    return Reject(stage, error.reason, error.detail, source.name, row.number, subject, payload(row.values, whole))


def items_text(frame: pl.DataFrame, fields: tuple[str, ...]) -> pl.DataFrame:
    """Add `text`, the non-empty title and attributes named by `fields`, joined by ". ", and its hash.

    The values of a list are joined by ", ".
    """
    texts = []
    for title, attributes in frame.select("title", "attributes").iter_rows():
        known = {**json.loads(attributes), "title": title}
        texts.append(". ".join(_joined(known[name]) for name in fields if known.get(name)))
    hashes = [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in texts]
    return frame.with_columns(
        pl.Series("text", texts, dtype=pl.String), pl.Series("content_hash", hashes, dtype=pl.String)
    )


def _joined(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def items_content(frame: pl.DataFrame, read: Callable[[dict[str, Any]], str | None]) -> pl.DataFrame:
    """Add `content`, the result of `read` on an item's attributes, and its hash; drop items where it is None."""
    contents = [read(json.loads(attributes)) for attributes in frame["attributes"]]
    hashes = [content and hashlib.blake2b(content.encode(), digest_size=16).hexdigest() for content in contents]
    return frame.with_columns(
        pl.Series("content", contents, dtype=pl.String), pl.Series("content_hash", hashes, dtype=pl.String)
    ).filter(pl.col("content").is_not_null())
