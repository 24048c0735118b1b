"""Embed pending items with an encoder stage; commit the vectors unit by unit.

The `vectors` table is the cache: a vector is keyed by content hash and fingerprint. A rerun encodes nothing, a killed
run resumes after its last unit, and a new model writes beside the old one. Workers read the rows of a unit, encode them
and write their vectors; the process of the run gets the names of the files, and commits them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.compute.executors import Compute, WorkerDied
from pipelines.counts import Counts
from pipelines.embed.contents import ContentKind, ItemContents
from pipelines.embed.item_rows import ItemRows
from pipelines.embed.protocol import Stage, apply
from pipelines.places import PAIR
from pipelines.vector_store import VectorFiles, stored_among
from storage.commit import Provenance
from storage.lake import Lake
from storage.quarantine import Reject, quarantine
from storage.reasons import Reason

MAX_DEADLY = 3
"""Rows that may kill a worker before the fault is taken to be elsewhere."""
UNITS, MAX_ROWS = 256, 1 << 14
"""Units of a stage of many items, and most rows of one, which a worker holds."""
PART = ", one of several"
"""Suffix of the stage of a reject that is one part of an item's content."""


@dataclass(frozen=True)
class EncodingJob:
    """Encoding of one modality into a lake: the stage with its arguments, and the fingerprint of the vectors it makes.

    The content is of a `kind`. The stage gets `task_rows` items at a time, those of a unit if None; a unit, which is
    one commit, holds `unit_rows`.
    """

    lake: Lake
    modality: str
    fingerprint: str
    stage: Callable[..., Stage]
    arguments: dict[str, Any]
    kind: ContentKind
    chunk_rows: int
    task_rows: int | None = None

    def unit_rows(self, items: int) -> int:
        """Return the rows of a unit of a stage with some items, those included that have their vector already.

        They are `chunk_rows`, or as many as make UNITS units, but at most MAX_ROWS: a kill loses at most that of each
        worker. A catalogue of up to UNITS * MAX_ROWS items makes about UNITS files. A rerun has the same units.
        """
        return max(self.chunk_rows, min(-(-items // UNITS), MAX_ROWS))

    def start(self) -> Callable[[ItemRows], "EncodedUnit"]:
        """Load the model; return what encodes a unit."""
        return partial(_encode, self, self.stage(**self.arguments))


@dataclass(frozen=True)
class EncodedUnit:
    """Of a unit: how many items have a vector, the files that hold these, and rows (PAIR, reason, detail) to refuse.

    `kept` tells of these rows whether the item has a vector of its other parts.
    """

    out: int
    files: VectorFiles | None
    refused: pl.DataFrame


def embed(
    job: EncodingJob,
    contents: ItemContents,
    compute: Compute,
    provenance: Provenance,
    advance: Callable[[int], None],
) -> Counts:
    """Encode the contents that have no vector yet, and store their vectors.

    `unchanged` counts vectors that already exist. Refused rows go to quarantine; they are retried when their content
    changes or by `sidmill quarantine retry`. `advance` gets numbers of rows as units are done.
    """
    counts = Counts(f"embed {job.modality}", rows_in=contents.pairs.height)
    stored = stored_among(job.lake, job.modality, job.fingerprint, contents.pairs)
    counts.unchanged = int(stored.sum())
    advance(counts.unchanged)
    job.lake.open_or_create("vectors")
    for rows, done in _all_done(job, _units(contents, stored, job.unit_rows(len(stored))), compute):
        _commit(job, done, counts, provenance)
        advance(rows)
    return counts.check()


def _units(contents: ItemContents, stored: NDArray[np.bool_], rows: int) -> list[ItemRows]:
    """Return what is not stored of each `rows` rows of a part, so that a rerun has the units of the run before."""
    units = []
    for part in contents.parts:
        pending = np.flatnonzero(~stored[part.places])
        cuts = np.searchsorted(pending, np.arange(rows, len(part.places), rows))
        units += [part.rows.take(some) for some in np.split(pending, cuts) if len(some)]
    return units


def _all_done(job: EncodingJob, units: list[ItemRows], compute: Compute) -> Iterator[tuple[int, EncodedUnit]]:
    """Yield the rows and the result of each unit, even if rows kill the process that encodes them.

    The units that a death leaves undone are halved and tried again, until the deadly row is alone. Up to MAX_DEADLY
    such rows are refused; with one more, the fault is not in the rows and WorkerDied is raised.
    """
    waiting, deadly = [units], 0
    while waiting:
        some = waiting.pop()
        left = dict(enumerate(some))
        try:
            for number, done in compute.map(job, some):
                yield len(left.pop(number)), done
        except WorkerDied as death:
            undone = list(left.values())
            if halves := _halves(undone):
                waiting += reversed(halves)
                continue
            if (deadly := deadly + len(undone)) > MAX_DEADLY:
                raise
            for unit in undone:
                yield 1, _refused(job.kind.make(unit.read()), Reason.ENCODER_CRASHED, str(death))


def _halves(units: list[ItemRows]) -> list[list[ItemRows]]:
    """Return the halves of some units, or of a single one; nothing for a single row or none."""
    if len(units) == 1:
        rows = np.arange(len(units[0]))
        units = [units[0].take(half) for half in np.array_split(rows, 2) if len(rows) > 1]
    middle = len(units) // 2
    return [units[:middle], units[middle:]] if middle else []


def _encode(job: EncodingJob, stage: Stage, unit: ItemRows) -> EncodedUnit:
    """Make the contents of a unit, encode them, and write their vectors."""
    made = job.kind.make(unit.read())
    if job.kind.order is not None:
        made = made.sort(job.kind.order, descending=True, maintain_order=True)
    table = made.select(list(dict.fromkeys((*PAIR, *stage.reads)))).to_arrow()
    rows = min(job.task_rows or len(unit), job.chunk_rows)
    answers = [apply(stage, table.slice(start, rows)) for start in range(0, table.num_rows, rows)]
    frame = pl.DataFrame(pa.concat_tables(answers))
    good = frame.filter(pl.col("vector").is_not_null()).select(*PAIR, "vector")
    named = good.with_columns(modality=pl.lit(job.modality), fingerprint=pl.lit(job.fingerprint))
    refused = frame.filter(pl.col("reason").is_not_null())
    return EncodedUnit(
        good.height,
        VectorFiles.write(job.lake, named) if good.height else None,
        refused.select(*PAIR, "reason", "detail", kept=pl.col("vector").is_not_null()),
    )


def _refused(rows: pl.DataFrame, reason: str, detail: str) -> EncodedUnit:
    return EncodedUnit(0, None, rows.select(*PAIR, reason=pl.lit(reason), detail=pl.lit(detail), kept=False))


def _commit(job: EncodingJob, done: EncodedUnit, counts: Counts, provenance: Provenance) -> None:
    """Commit the files of a unit, and quarantine its refused rows."""
    counts.out += done.out
    rejects = []
    for row in done.refused.to_dicts():
        stage = counts.stage
        if row["kept"]:
            stage += PART
        else:
            counts.refuse(row["reason"], detail=row["detail"])
        source = f"{job.modality}@{row['content_hash']}"
        rejects.append(Reject(stage, row["reason"], row["detail"], source, 0, row["item_id"]))
    quarantine(job.lake, rejects, provenance)
    if done.files is not None:
        done.files.commit(job.lake, provenance)
