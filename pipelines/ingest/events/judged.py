"""Parts of a log that workers read, judge and write; the process of the run commits their files.

A worker judges beside the log as it was before the source. What it cannot know is what other parts of the source hold,
and what others commit meanwhile. `Admission` tells whether that may change the judgement; if so, the part is judged
again in the process of the run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from deltalake.transaction import AddAction

from pipelines.compute.placement import TaskStage
from pipelines.counts import Counts
from pipelines.ingest.accounting import naming
from pipelines.ingest.events.admission import Admission, Refusal, TimeSpan, event_rows, times_of
from pipelines.ingest.events.columns import EVENTS
from pipelines.ingest.events.reader import LogReader
from pipelines.ingest.events.seen_events import event_keys
from pipelines.ingest.hash_set import Hashes, require_same_hashes
from pipelines.ingest.parts import bounds, column_names
from pipelines.sources.protocol import Part, Partitioned, SourcePartition
from storage.commit import write_files
from storage.files.data_files import DataFile
from storage.lake import Lake
from storage.quarantine import Reject
from storage.reasons import INTERACTIONS as STAGE

RECOGNISED: dict[str, pl.DataType] = {**EVENTS, "source": pl.String(), "known": pl.Boolean()}


@dataclass(frozen=True)
class JudgedPart:
    """A part after a worker judged it: its rows within `bounds`, and what became of their events.

    - `counts` and `rejects` are of rows that gave no event.
    - `times` are the first and the last time of all events; `unchanged` of these are stored already.
    - `refused` are the refused events, with `reason` and `detail`.
    - `files` hold the kept events, to be committed under `key`; none if there are none. `times_kept` are their times.
    - `kept` and `held_back` are the keys (`event_keys`) of kept and of refused events, ascending.
    """

    bounds: tuple[int, int]
    counts: Counts
    rejects: list[Reject]
    columns: frozenset[str]
    own_ids: bool
    times: TimeSpan | None
    refused: pl.DataFrame
    unchanged: int
    files: list[AddAction]
    key: str
    kept: Hashes
    held_back: Hashes
    times_kept: TimeSpan | None

    @property
    def refusals(self) -> list[Refusal]:
        """The refused events as the admission gives them."""
        events = self.refused.drop("reason", "detail").to_dicts()
        return list(zip(events, self.refused["reason"], self.refused["detail"], strict=True))

    def events(self, lake: Lake) -> pl.DataFrame:
        """Return the events that were kept or refused, recognised, in the order of the source."""
        paths = [DataFile.at(each.path) for each in self.files]
        columns = [name for name in RECOGNISED if name != "known"]
        rows = pl.DataFrame(lake.read_files("interactions", paths, columns))
        refused = self.refused.select(*RECOGNISED)
        kept = rows.with_columns(known=True).select(*RECOGNISED).cast(pl.Schema(RECOGNISED))
        return pl.concat([kept, refused]).sort("source_offset")


class ReadLog(TaskStage):
    """Stage of the workers."""


@dataclass(frozen=True)
class LogJob:
    """Reading of the partitions of a log, beside a version of the table; `probe` is a hash as this process makes it."""

    lake: Lake
    reader: LogReader
    version: int
    chunk_rows: int
    probe: int

    stage = ReadLog

    def start(self) -> Callable[[SourcePartition], list[JudgedPart]]:
        """Return the function of a partition, which remembers the items that it looked up."""
        require_same_hashes(self.probe)
        admission = Admission(self.lake)

        def work(partition: SourcePartition) -> list[JudgedPart]:
            source = self.reader.source
            assert isinstance(source, Partitioned)
            parts = source.partition_parts(partition, self.reader.spec, self.chunk_rows)
            return [self._judged(part, admission) for part in parts]

        return work

    def _judged(self, part: Part, admission: Admission) -> JudgedPart:
        counts = Counts(STAGE)
        with naming(self.reader.source, *bounds(part)):
            columns = frozenset(column_names(part) & self.reader.spec.selected_columns)
            parsed = self.reader.parse(part)
            events, rejects = self.reader.fresh(part, parsed, counts)
            recognised = admission.recognised(events)
            admitted = admission.admit(recognised, parsed.own_ids, self.version)
            kept = admitted.events
            refused = _framed(admitted.refused)
            rows, key = event_rows(kept)
            return JudgedPart(
                bounds(part),
                counts,
                rejects,
                columns,
                parsed.own_ids,
                times_of(recognised) if len(recognised) else None,
                refused,
                admitted.unchanged,
                write_files(self.lake, "interactions", rows, key) if len(kept) else [],
                key,
                np.sort(event_keys(kept, parsed.own_ids)),
                np.sort(event_keys(refused, parsed.own_ids)),
                times_of(kept) if len(kept) else None,
            )


def _framed(refused: list[Refusal]) -> pl.DataFrame:
    """Return refused events as a frame, which takes a tenth of their memory."""
    rows = [{**event, "reason": reason, "detail": detail} for event, reason, detail in refused]
    return pl.DataFrame(rows, schema={**RECOGNISED, "reason": pl.String, "detail": pl.String}, orient="row")
