"""Parts of a catalogue that workers read, compare with the lake and write; the process of the run commits their files.

A worker compares with the items as they were before the source. What it cannot know is which ids other parts of the
source have, and what others commit meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from deltalake.transaction import AddAction

from pipelines.compute.placement import TaskStage
from pipelines.ingest.accounting import naming
from pipelines.ingest.hash_set import Hashes, id_hashes, require_same_hashes
from pipelines.ingest.items.columns import parse
from pipelines.ingest.items.reader import CatalogueReader, CatalogueTotals
from pipelines.ingest.items.revisions import new_or_changed, revision_rows
from pipelines.ingest.parts import bounds
from pipelines.sources.protocol import Part, Partitioned, Source, SourcePartition
from pipelines.sources.source_spec import ItemsSpec
from storage.commit import write_files
from storage.lake import Lake
from storage.quarantine import Reject


@dataclass(frozen=True)
class JudgedItems:
    """A part after a worker judged it: its rows within `bounds`, counts, and what was refused.

    `ids` are the hashes of the ids of its items, ascending. `files` hold the new revisions, to be committed under
    `key`; none where all items are unchanged. `changes` says whether an item was there before. `asked` are those items,
    with `complete`, that quarantine has rows of.
    """

    bounds: tuple[int, int]
    totals: CatalogueTotals
    rejects: list[Reject]
    ids: Hashes
    files: list[AddAction]
    key: str
    changes: bool
    asked: pl.DataFrame


class ReadCatalogue(TaskStage):
    """Stage of the workers."""


@dataclass(frozen=True)
class CatalogueJob:
    """Reading of the partitions of a catalogue, beside a version of the table.

    `asked` are the ids of items that rows in quarantine are about, `probe` a hash as this process makes it.
    """

    lake: Lake
    source: Source
    spec: ItemsSpec
    arrived_at: datetime
    version: int
    chunk_rows: int
    asked: frozenset[str]
    probe: int

    stage = ReadCatalogue

    def start(self) -> Callable[[SourcePartition], list[JudgedItems]]:
        """Return the function of a partition."""
        require_same_hashes(self.probe)
        return self._judged_parts

    def _judged_parts(self, partition: SourcePartition) -> list[JudgedItems]:
        assert isinstance(self.source, Partitioned)
        return [self._judged(part) for part in self.source.partition_parts(partition, self.spec, self.chunk_rows)]

    def _judged(self, part: Part) -> JudgedItems:
        with naming(self.source, *bounds(part)):
            parsed = parse(part, self.spec)
            reader = CatalogueReader(self.lake, self.source, self.spec, written=pl.DataFrame())
            items, rejects = reader.accepted(part, parsed)
            revisions = new_or_changed(self.lake, items, self.arrived_at, self.version)
            rows, key = revision_rows(revisions)
            reader.totals.rows.out += len(revisions)
            reader.totals.rows.unchanged += len(items) - len(revisions)
            return JudgedItems(
                bounds(part),
                reader.totals,
                rejects,
                np.sort(id_hashes(parsed.items["item_id"])),
                write_files(self.lake, "items", rows, key) if len(revisions) else [],
                key,
                bool((revisions["revision"] > 0).any()),
                items.filter(pl.col("item_id").is_in(self.asked)).select("item_id", "images", "complete"),
            )
