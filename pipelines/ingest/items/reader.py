"""Reader of the rows of one catalogue: items, each once, their pictures, and what is refused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import polars as pl

from pipelines.counts import Counts
from pipelines.ingest.accounting import names_of, payload
from pipelines.ingest.hash_set import SeenHashes, id_hashes
from pipelines.ingest.items.columns import ParsedItems
from pipelines.ingest.items.marks import row_numbers, telling_names
from pipelines.ingest.items.revisions import CONTENT, comparable
from pipelines.ingest.items.rows import subject_of
from pipelines.ingest.parts import column_names, row_count, rows_at
from pipelines.ingest.pictures.fetch import TRANSIENT
from pipelines.ingest.pictures.ingest import Pictures
from pipelines.sources.cells import Refused
from pipelines.sources.protocol import Part, Source
from pipelines.sources.row import Row
from pipelines.sources.source_spec import ItemsSpec, ItemsWithoutImages
from storage.files.among import one_of
from storage.lake import Lake
from storage.quarantine import Reject
from storage.reasons import ATTRIBUTES as ATTRIBUTE_STAGE
from storage.reasons import IMAGES as IMAGE_STAGE
from storage.reasons import ITEMS as STAGE
from storage.reasons import Reason
from storage.releases.catalogue import catalogue


@dataclass
class CatalogueTotals:
    """Counts of the rows, attributes and pictures of a catalogue, and the columns that it has.

    `row_numbers` are columns that look like numbers of rows.
    """

    rows: Counts = field(default_factory=lambda: Counts(STAGE))
    attributes: Counts = field(default_factory=lambda: Counts(ATTRIBUTE_STAGE))
    images: Counts = field(default_factory=lambda: Counts(IMAGE_STAGE))
    unread_pictures: int = 0
    columns: set[str] = field(default_factory=set)
    row_numbers: set[str] = field(default_factory=set)

    def add(self, other: "CatalogueTotals") -> None:
        """Add the totals of another part."""
        self.rows.add(other.rows)
        self.attributes.add(other.attributes)
        self.images.add(other.images)
        self.unread_pictures += other.unread_pictures
        self.columns |= other.columns
        self.row_numbers |= other.row_numbers


class CatalogueReader:
    """Reader of one source's rows: accepts each item once, stores pictures, and counts."""

    def __init__(self, lake: Lake, source: Source, spec: ItemsSpec, written: pl.DataFrame | None = None) -> None:
        """Set up for one source; `written` is what earlier readings of it wrote, which is looked up by default."""
        self._lake, self.source, self.spec = lake, source, spec
        self.totals = CatalogueTotals()
        self.with_pictures = not isinstance(spec, ItemsWithoutImages)
        self._pictures = Pictures(lake, source, spec)
        self._seen, self._ids = SeenHashes(), list[pl.Series]()
        if written is None:
            where = one_of("source", names_of(lake, source, "items"))
            written = lake.frame("items", columns=CONTENT, where=where)
        self._written = written

    @property
    def is_alike_everywhere(self) -> bool:
        """True if a part is read as it would be beside the other parts, but for ids that these have too."""
        return self._written.is_empty() and not self.with_pictures

    def accepted(self, part: Part, parsed: ParsedItems) -> tuple[pl.DataFrame, list[Reject]]:
        """Return the items of a part with `images`, `source` and `complete`, and the rows and what of rows is refused.

        `complete` is False for an item that lacks an attribute which cannot be read.
        """
        totals = self.totals
        totals.rows.rows_in += row_count(part)
        columns = telling_names(column_names(part), self.spec)
        totals.columns |= columns
        totals.row_numbers |= row_numbers(columns, parsed.items, self.spec)
        again = self._again(parsed.items["item_id"])
        items = parsed.items.filter(~again)
        refused = [*parsed.refused, *self._repeats(part, parsed.items.filter(again))]
        rejects = [self._refuse_row(row, error) for row, error in sorted(refused, key=lambda each: each[0].number)]
        rejects += self._unreadable_attributes(items, parsed)
        incomplete = [reject.subject for reject in rejects if reject.stage == ATTRIBUTE_STAGE]
        found: dict[int, list[str]] = {}
        if self.with_pictures:
            found, refused_pictures = self._stored(items, parsed)
            rejects += refused_pictures
        else:
            kept = set(items["source_row"]) if parsed.pictures else set()
            totals.unread_pictures += sum(len(named) for row, (_, named) in parsed.pictures.items() if row in kept)
        more = {"source": pl.lit(self.source.name), "complete": ~pl.col("item_id").is_in(incomplete)}
        return self._with_images(items, found).with_columns(**more), rejects

    def fresh(self, items: pl.DataFrame) -> pl.DataFrame:
        """Return the items that earlier readings of this file did not write, so that later changes are kept."""
        if self._written.is_empty():
            return items
        same = CONTENT if self.with_pictures else [name for name in CONTENT if name != "images"]
        return items.join(self._written, on=[comparable(name) for name in same], how="anti", maintain_order="left")

    def _again(self, ids: pl.Series) -> pl.Series:
        """Return for each id whether an earlier row of the source has it."""
        hashes = id_hashes(ids)
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
        self.totals.rows.refuse(error.reason, row.rows, error.detail)
        return _reject(STAGE, error, self.source, row, subject_of(row, self.spec))

    def _unreadable_attributes(self, items: pl.DataFrame, parsed: ParsedItems) -> list[Reject]:
        """Count the items, and return those that lack attributes which cannot be read."""
        rejects = []
        if parsed.without:
            names = dict(items.select("source_row", "item_id").iter_rows())
            for row, unreadable in parsed.without.values():
                if row.number in names:
                    error = Refused(Reason.UNREADABLE_ATTRIBUTE, "; ".join(each.detail for each in unreadable))
                    self.totals.attributes.refuse(error.reason, 1, error.detail)
                    rejects.append(_reject(ATTRIBUTE_STAGE, error, self.source, row, names[row.number]))
        self.totals.attributes.rows_in += len(items)
        self.totals.attributes.out += len(items) - len(rejects)
        return rejects

    def _stored(self, items: pl.DataFrame, parsed: ParsedItems) -> tuple[dict[int, list[str]], list[Reject]]:
        """Store the pictures of items; return their hashes by row, and the pictures that were refused."""
        names = dict(items.select("source_row", "item_id").iter_rows())
        asked = ((row, named) for number, (row, named) in parsed.pictures.items() if number in names)
        stored, rejects = dict[int, list[str]](), list[Reject]()
        for row, found in self._pictures.stored(asked):
            self.totals.images.rows_in += len(found)
            stored[row.number] = [each for each in found if isinstance(each, str)]
            self.totals.images.out += len(stored[row.number])
            for reason, details in _by_reason(found).items():
                self.totals.images.refuse(reason, len(details), details[0])
                error = Refused(reason, "; ".join(details))
                column = self.spec.image if reason in TRANSIENT else None  # kept whole, to be fetched again
                rejects.append(_reject(IMAGE_STAGE, error, self.source, row, names[row.number], column))
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
