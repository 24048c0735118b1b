"""Ingest a catalogue: validate rows, store pictures by hash, append a revision for each new or changed item."""

import json
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any

import polars as pl
import pyarrow as pa

from pipelines.compute.executors import Compute
from pipelines.ingest.accounting import IngestedSource, close_superseded, mapping_hash, naming
from pipelines.ingest.hash_set import SeenHashes, hash_probe
from pipelines.ingest.items.columns import parse
from pipelines.ingest.items.judged import CatalogueJob, JudgedItems
from pipelines.ingest.items.lost import lost_columns
from pipelines.ingest.items.marks import deletion_marks
from pipelines.ingest.items.reader import CatalogueReader, CatalogueTotals
from pipelines.ingest.items.revisions import new_or_changed, revision_rows
from pipelines.ingest.items.rows import pictures_of
from pipelines.ingest.partitions import made_in_order, partitions_for_workers
from pipelines.ingest.parts import bounds, parsed_ahead
from pipelines.ingest.pictures.fetch import TRANSIENT
from pipelines.ingest.pictures.ingest import Pictures
from pipelines.ingest.pictures.references import Reference
from pipelines.sources.protocol import Partitioned, Source, SourcePartition
from pipelines.sources.source_spec import ItemsSpec
from storage.commit import Decided, Provenance, append_decided
from storage.files.data_files import DataFile
from storage.lake import Lake
from storage.quarantine import PAYLOAD_LIMIT, Reject, open_rows, quarantine, resolve
from storage.reasons import ATTRIBUTES as ATTRIBUTE_STAGE
from storage.reasons import IMAGES as IMAGE_STAGE
from storage.reasons import ITEMS as STAGE
from storage.releases.catalogue import catalogue
from storage.schemas import ITEMS

CHUNK_ROWS = 1 << 17
"""Rows of a source that are converted, compared with the lake and written at once."""


def ingest_items(
    lake: Lake,
    source: Source,
    spec: ItemsSpec,
    arrived_at: datetime,
    provenance: Provenance,
    compute: Compute | None = None,
) -> IngestedSource:
    """Append the new or changed items of one source file; refused rows go to quarantine with their reason.

    Rows in = written + unchanged + quarantined. Pictures and attributes are counted as stages of their own; one that is
    refused leaves its item without it. Reading a file again, even after a kill, appends nothing that it gave before,
    and resolves rows that were refused before and pass now. Workers of `compute` read the partitions of a large source,
    with the same outcome.
    """
    reading = _Catalogue(lake, source, spec, arrived_at, provenance)
    reader = CatalogueReader(lake, source, spec)
    partitions = partitions_for_workers(lake, source, spec, compute) if reader.is_alike_everywhere else []
    if compute is not None and partitions:
        reading.read_by_workers(compute, partitions)
    else:
        reading.read(reader)
    totals = reading.totals
    stages = [totals.rows.check(), totals.images.check(), totals.attributes.check()]
    read = [stage for stage in stages if stage is not totals.images or reader.with_pictures]
    close_superseded(lake, source, read, reading.refused, provenance)
    return IngestedSource(
        source,
        "items",
        mapping_hash(spec),
        stages,
        totals.unread_pictures,
        reading.lost or (),
        deletion_marks(totals.columns | source.unread_columns, spec),
        tuple(sorted(totals.row_numbers)),
        frozenset(totals.columns),
    )


class _Catalogue:
    """The catalogue of a lake while one source is read: what was counted, refused and lost so far."""

    def __init__(
        self, lake: Lake, source: Source, spec: ItemsSpec, arrived_at: datetime, provenance: Provenance
    ) -> None:
        self._lake, self._source, self._spec = lake, source, spec
        self._arrived_at, self._provenance = arrived_at, provenance
        self.totals = CatalogueTotals()
        self.refused = set[str]()
        self.lost: tuple[str, ...] | None = None

    def read(self, reader: CatalogueReader) -> None:
        """Read the source in this process, part by part."""
        for part, parsed in parsed_ahead(self._source, self._spec, CHUNK_ROWS, lambda part: parse(part, self._spec)):
            with naming(self._source, *bounds(part)):
                items, rejects = reader.accepted(part, parsed)
                fresh = partial(new_or_changed, self._lake, reader.fresh(items), self._arrived_at)
                written = _write(self._lake, fresh, self._provenance)
                if (written["revision"] > 0).any():
                    self._look_for_lost(written)
                reader.totals.rows.out += len(written)
                reader.totals.rows.unchanged += len(items) - len(written)
                self._settle(items, rejects, reader.with_pictures)
        self.totals.add(reader.totals)

    def read_by_workers(self, compute: Compute, partitions: list[SourcePartition]) -> None:
        """Have workers read the partitions, compare them with the lake and write them, and commit their files.

        If parts have an item in common, or another run wrote items meanwhile, all is read again in this process.
        """
        assert isinstance(self._source, Partitioned)
        version = self._lake.open_or_create("items").version()
        job = CatalogueJob(
            lake=self._lake,
            source=self._source,
            spec=self._spec,
            arrived_at=self._arrived_at,
            version=version,
            chunk_rows=CHUNK_ROWS,
            asked=frozenset(_elsewhere(self._lake, self._source)["subject"].drop_nulls()),
            probe=hash_probe(),
        )
        seen = SeenHashes()
        with closing(made_in_order(compute, job, partitions)) as made:
            for part in chain.from_iterable(made):
                with naming(self._source, *part.bounds):
                    if seen.has(part.ids).any() or not self._commit(part, version):
                        break
                    seen.add(part.ids)
                    version += bool(part.files)
            else:
                self._source.check_same()
                return
        written = self.totals.rows.out
        self.totals = CatalogueTotals()
        self.read(CatalogueReader(self._lake, self._source, self._spec))
        self.totals.rows.out += written  # which it found unchanged
        self.totals.rows.unchanged -= written

    def _commit(self, part: JudgedItems, version: int) -> bool:
        """Commit the files of a part at a version of the table; return False if that is not its newest any more.

        So it does if a commit with the key of the part came before, whose rows were taken out of the table since.
        """
        stands = False

        def decide(newest: int) -> Decided | None:
            nonlocal stands
            stands = newest == version
            return (part.files, part.key) if stands and part.files else None

        commit = append_decided(self._lake, "items", decide, self._provenance)
        if not stands or (commit is not None and not commit.written):
            return False
        if part.changes and self.lost is None:
            paths = [DataFile.at(each.path) for each in part.files]
            self._look_for_lost(pl.DataFrame(self._lake.read_files("items", paths, None)).sort("source_row"))
        self.totals.add(part.totals)
        self._settle(part.asked, part.rejects, with_pictures=False)
        return True

    def _look_for_lost(self, changed: pl.DataFrame) -> None:
        """Look for columns that changed items have no more, of the first part that has such items."""
        if self.lost is None:
            self.lost = lost_columns(self._lake, changed, self._spec)

    def _settle(self, items: pl.DataFrame, rejects: list[Reject], with_pictures: bool) -> None:
        """Quarantine what was refused of a part, and resolve what came through."""
        quarantine(self._lake, rejects, self._provenance)
        self.refused.update(reject.id for reject in rejects)
        if len(items):
            _resolve_mended(self._lake, self._source, items, self._provenance, with_pictures)


def _write(lake: Lake, decide: Callable[[int], pl.DataFrame], provenance: Provenance) -> pl.DataFrame:
    """Append the revisions that `decide` makes of a version of the catalogue, and return them.

    If another run writes revisions meanwhile, they are decided again.
    """
    revisions = pl.DataFrame(schema=pl.DataFrame(ITEMS.schema.empty_table()).schema)

    def rows(version: int) -> Decided | None:
        nonlocal revisions
        revisions = decide(version)
        return None if revisions.is_empty() else revision_rows(revisions)

    append_decided(lake, "items", rows, provenance)
    return revisions


def _elsewhere(lake: Lake, source: Source) -> pl.DataFrame:
    """Return the open rows of catalogues that other sources had refused."""
    stages = pl.col("stage").is_in([STAGE, ATTRIBUTE_STAGE, IMAGE_STAGE])
    return open_rows(lake).filter(stages & (pl.col("source") != source.name))


def _resolve_mended(
    lake: Lake, source: Source, items: pl.DataFrame, provenance: Provenance, with_pictures: bool
) -> None:
    """Resolve rows that other sources had refused and whose content has now come through.

    This is the item itself for a row of the catalogue, all of its attributes (`complete` items) for an attribute, and
    any picture of it for a picture.
    """
    refused = _elsewhere(lake, source)
    if refused.is_empty():
        return
    ids, complete = items["item_id"], items.filter("complete")["item_id"]
    pictured = items.filter(pl.col("images").list.len() > 0)["item_id"] if with_pictures else ids.clear()
    rows = refused.filter(
        ((pl.col("stage") == STAGE) & pl.col("subject").is_in(ids.implode()))
        | ((pl.col("stage") == ATTRIBUTE_STAGE) & pl.col("subject").is_in(complete.implode()))
        | ((pl.col("stage") == IMAGE_STAGE) & pl.col("subject").is_in(pictured.implode()))
    )
    resolve(lake, rows, f"came through in {source.name}", provenance)


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
