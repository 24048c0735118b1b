"""Ingest as a whole, in columns, chunks and partitions, against a loop over rows that keeps dictionaries."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_rows import NOW, WHO, read_rows
from test_admission import Slow

from pipelines.compute.executors import Compute, InProcess
from pipelines.counts import Counts
from pipelines.ingest.events import ingest as events_ingest
from pipelines.ingest.events.ingest import LogResources
from pipelines.ingest.events.rows import EventRules
from pipelines.ingest.items import ingest as items_ingest
from pipelines.ingest.items.rows import item_of
from pipelines.sources import files
from pipelines.sources.cells import Refused
from pipelines.sources.files import find_sources
from pipelines.sources.protocol import Source, SourcePartition, Spec
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec, ItemsWithoutImages
from pipelines.spec import ComputeSpec
from storage import reasons as reasons_of
from storage.lake import Lake
from storage.releases.catalogue import catalogue

Rows: TypeAlias = list[dict[str, Any]]
Outcome: TypeAlias = tuple[int, int, int, dict[str, int]]
"""Rows in, written and unchanged, and rows refused by reason."""

ITEMS = ItemsSpec(deleted="deleted")
NO_PICTURES = ItemsWithoutImages.of(ITEMS)
EVENTS = InteractionsSpec(session_id="session", value="price")
IDS = st.sampled_from(["a", "b", "c", "d", "é", "ｅ", "", "null", " a", "x" * 300, 7, 7.0, 1.5, True, None])
WORDS = st.sampled_from(
    ["mug", "a mug", "", "N/A", "é\u0301", "\ufeffmug", "tab\there", None, 3, 2.5, ["a", "b"], {"k": 1}]
)
TIMES = st.sampled_from(
    ["2026-01-02", "2026-01-02T03:04:05Z", "2026-01-02 03:04:05.5", 1_767_323_045, "2026-02-30", "2999-01-01", "", None]
)
ITEM = st.fixed_dictionaries(
    {"item_id": IDS, "title": WORDS},
    optional={"brand": WORDS, "tags": WORDS, "deleted": st.sampled_from([True, False, "yes", "no", "?", None])},
)
EVENT = st.fixed_dictionaries(
    {"user_id": IDS, "item_id": st.sampled_from(["a", "b", "c", "lost", "", None]), "event_time": TIMES},
    optional={"session": IDS, "price": st.sampled_from([1, 1.5, "2", "x", None]), "event_id": st.sampled_from("pqr")},
)


def write(path: Path, rows: Rows, kind: str) -> Source:
    """Write rows as JSON lines, or as CSV or Parquet with small row groups, where a cell is its text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = [{name: _text(row.get(name)) for name in names} for row in rows]
    table = pl.DataFrame(texts, dict.fromkeys(names, pl.String))
    if kind == "csv":
        table.write_csv(path)
    elif kind == "parquet":
        pq.write_table(table.to_arrow(), path, row_group_size=2)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (source,) = find_sources(str(path))
    return source


def partitions_for(lake: Lake, source: Any, spec: Spec, compute: Compute | None) -> list[SourcePartition]:
    """Return the partitions of a source, also of a small one and without a cluster."""
    found: list[SourcePartition] = source.partitions(spec) if compute is not None else []
    return found


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


@dataclass
class SlowShop:
    """A lake after some sources were read, row by row."""

    revisions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    events: Slow = field(default_factory=lambda: Slow(set()))
    refused: set[tuple[str, str, str, int]] = field(default_factory=set)

    def read_items(self, source: Source) -> Outcome:
        written = unchanged = number = 0
        reasons, seen = Counter[str](), set[str]()
        known = [each for revisions in self.revisions.values() for each in revisions if each["source"] == source.name]
        before = [(each["item_id"], each["text_hash"], each["deleted"]) for each in known]
        for row in read_rows(source, ITEMS):
            number += 1
            try:
                item, _ = item_of(row, ITEMS)
                if item["item_id"] in seen:
                    raise Refused("duplicate_item_id", "")
            except Refused as refused:
                reasons[str(refused.reason)] += 1
                self.refused.add((reasons_of.ITEMS, str(refused.reason), source.name, row.number))
                continue
            seen.add(item["item_id"])
            revisions = self.revisions.setdefault(item["item_id"], [])
            content = item["text_hash"], item["deleted"]
            newest = revisions and (revisions[-1]["text_hash"], revisions[-1]["deleted"]) == content
            if newest or (item["item_id"], *content) in before:
                unchanged += 1
            else:
                written += 1
                revisions.append({**item, "source": source.name})
        return number, written, unchanged, dict(reasons)

    def read_log(self, source: Source) -> Outcome:
        self.events.items = {name for name, revisions in self.revisions.items() if revisions}
        rules, reasons, number, events = EventRules(EVENTS, NOW), Counter[str](), 0, []
        for row in read_rows(source, EVENTS):
            number += 1
            try:
                event = rules.event(row)
            except Refused as refused:
                reasons[str(refused.reason)] += 1
                self.refused.add((reasons_of.INTERACTIONS, str(refused.reason), source.name, row.number))
                continue
            events.append({**event, "event_id": event["event_id"] or content_id(event), "source": source.name})
        outcomes = self.events.source(events)
        for event, reason in zip(events, outcomes, strict=True):
            if reason not in ("", "unchanged"):
                reasons[reason] += 1
                self.refused.add((reasons_of.INTERACTIONS, reason, source.name, event["source_offset"]))
        return number, outcomes.count(""), outcomes.count("unchanged"), dict(reasons)


def content_id(event: dict[str, Any]) -> str:
    names = (
        "user_id",
        "item_id",
        "event_type",
        "event_time",
        "session_id",
        "request_id",
        "impression",
        "position",
        "value",
    )
    return hashlib.blake2b("\0".join(str(event[name]) for name in names).encode(), digest_size=16).hexdigest()


def outcome(counts: Counts) -> Outcome:
    return counts.rows_in, counts.out, counts.unchanged, {str(name): rows for name, rows in counts.by_reason.items()}


KIND = st.sampled_from(["jsonl", "csv", "parquet"])
CATALOGUES = st.lists(st.tuples(st.lists(ITEM, min_size=1, max_size=7), KIND), min_size=1, max_size=2)
LOGS = st.lists(st.tuples(st.lists(EVENT, min_size=1, max_size=7), KIND), min_size=1, max_size=2)


@settings(max_examples=20, deadline=None)
@given(catalogues=CATALOGUES, logs=LOGS, chunk=st.integers(1, 4), by_workers=st.booleans())
def test_what_is_stored_and_refused_is_what_a_loop_over_rows_stores_and_refuses(
    catalogues: list[tuple[Rows, str]], logs: list[tuple[Rows, str]], chunk: int, by_workers: bool
) -> None:
    """Also when the first catalogue and the first log are read again after the others, and by workers."""
    shop = SlowShop()
    compute = InProcess(ComputeSpec()) if by_workers else None
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(items_ingest, "CHUNK_ROWS", chunk)
        patch.setattr(files, "PARTITION_ROWS", 1)
        patch.setattr(events_ingest, "CHUNK_ROWS", chunk)
        patch.setattr(events_ingest, "partitions_for_workers", partitions_for)
        patch.setattr(items_ingest, "partitions_for_workers", partitions_for)
        folder = Path(name)
        lake = Lake(str(folder / "lake"))
        named = [write(folder / f"items-{at}.{kind}", rows, kind) for at, (rows, kind) in enumerate(catalogues)]
        for source in (*named, named[0]):
            counts = items_ingest.ingest_items(lake, source, NO_PICTURES, NOW, WHO, compute).stages[0]
            assert outcome(counts) == shop.read_items(source)
        sources = [write(folder / f"log-{at}.{kind}", rows, kind) for at, (rows, kind) in enumerate(logs)]
        for source in (*sources, sources[0]):
            counts = events_ingest.ingest_interactions(lake, source, EVENTS, NOW, WHO, LogResources(compute)).stages[0]
            assert outcome(counts) == shop.read_log(source)
        check_items(lake, shop)
        check_events(lake, shop)
        rows = lake.frame("quarantine", columns=["stage", "reason", "source", "source_row"]).unique()
        stages = pl.col("stage").is_in([reasons_of.ITEMS, reasons_of.INTERACTIONS])
        assert set(rows.filter(stages).rows()) == shop.refused


def check_items(lake: Lake, shop: SlowShop) -> None:
    names = ["item_id", "revision", "title", "attributes", "text_hash", "deleted", "source", "source_row"]
    expected = [
        {**item, "revision": number} for revisions in shop.revisions.values() for number, item in enumerate(revisions)
    ]
    stored = lake.frame("items", columns=names).sort("item_id", "revision").to_dicts()
    assert stored == sorted(expected, key=lambda item: (item["item_id"], item["revision"]))
    newest = catalogue(lake)["item_id"].to_list()
    assert newest == sorted(name for name, revisions in shop.revisions.items() if revisions)


def check_events(lake: Lake, shop: SlowShop) -> None:
    stored = {row["event_id"]: row for row in lake.frame("interactions").to_dicts()}
    assert stored.keys() == shop.events.table.keys()
    for name, event in shop.events.table.items():
        assert {each: stored[name][each] for each in event} == event
