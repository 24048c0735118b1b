"""Rows of sources, one by one, and their ingest as a run does it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pipelines.ingest.accounting import IngestedSource, record_source, records, unread
from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.ingest.items.ingest import ingest_items
from pipelines.registry import source_kind_of
from pipelines.sources.protocol import Source, Spec, check_sources
from pipelines.sources.row import Row
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec
from storage.commit import Provenance
from storage.lake import Lake

WHO = Provenance("test", "recipe")
NOW = datetime(2026, 9, 1, tzinfo=UTC)


def read_rows(source: Source, spec: Spec) -> Iterator[Row]:
    for part in source.parts(spec, 4096):
        yield from part if isinstance(part, list) else part.rows()


def ingest_new(lake: Lake, uri: str, spec: ItemsSpec | InteractionsSpec | None = None) -> list[IngestedSource]:
    spec = spec or ItemsSpec()
    before = records(lake, spec.section, spec)
    fresh = unread(source_kind_of(uri).find(uri, spec, before).sources, before)
    check_sources(fresh, spec)
    ingest: Any = ingest_items if isinstance(spec, ItemsSpec) else ingest_interactions
    done = [ingest(lake, source, spec, NOW, WHO) for source in fresh]
    for each in done:
        record_source(lake, each, WHO)
    return done
