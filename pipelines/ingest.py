"""What both ingests share: counts that must balance, and the record that a source was read to its end."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

import pyarrow as pa
import pyarrow.dataset as ds

from pipelines.sources import Source
from storage.commit import Provenance, append
from storage.lake import Lake
from storage.schemas import SOURCES

T = TypeVar("T")

BATCH_ROWS = 50_000


class Refused(Exception):
    """A row, or the image of a row, is refused for `reason`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass
class Counts:
    """Rows of one stage: in = out + unchanged + quarantined, or `check` raises."""

    stage: str
    rows_in: int = 0
    out: int = 0
    unchanged: int = 0
    by_reason: dict[str, int] = field(default_factory=dict)

    @property
    def quarantined(self) -> int:
        return sum(self.by_reason.values())

    def refuse(self, reason: str, rows: int = 1) -> None:
        if rows:
            self.by_reason[reason] = self.by_reason.get(reason, 0) + rows

    def check(self) -> "Counts":
        if self.rows_in != self.out + self.unchanged + self.quarantined:
            raise AssertionError(f"{self.stage}: rows were lost: {self}")
        return self

    def summary(self) -> dict[str, object]:
        return {
            "rows_in": self.rows_in,
            "rows_out": self.out,
            "unchanged": self.unchanged,
            "quarantined": self.quarantined,
            "by_reason": dict(sorted(self.by_reason.items())),
        }


@dataclass(frozen=True)
class IngestedSource:
    """What came of one source; `stages` are its counts (one, or two where images are a stage of their own)."""

    source: Source
    stages: list[Counts]


def grouped(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` consecutive elements."""
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch


def unread(lake: Lake, kind: str, sources: list[Source]) -> list[Source]:
    """The sources that were not yet read to their end, by content; a source given twice counts once."""
    known = lake.read("sources", columns=["sha256"], where=ds.field("kind") == kind)
    done = set(known.column("sha256").to_pylist())
    fresh = {source.sha256: source for source in sources if source.sha256 not in done}
    return list(fresh.values())


def record_source(
    lake: Lake, source: Source, kind: str, stages: list[Counts], provenance: Provenance
) -> IngestedSource:
    """Record that a source was read to its end; the first stage's counts are the row's."""
    main = stages[0]
    for counts in stages:
        counts.check()
    row = {
        "sha256": source.sha256,
        "kind": kind,
        "uri": source.uri,
        "rows_in": main.rows_in,
        "rows_out": main.out,
        "rows_unchanged": main.unchanged,
        "rows_quarantined": main.quarantined,
        "at": datetime.now(UTC),
        "run": provenance.run,
    }
    rows = pa.Table.from_pylist([row], schema=SOURCES.schema)
    append(lake, "sources", rows, f"source:{kind}:{source.sha256}", provenance)
    return IngestedSource(source, stages)
