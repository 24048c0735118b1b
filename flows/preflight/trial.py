"""Ingest of a sample into a lake in a temporary folder, so that the sample is judged by the rules of ingest."""

import difflib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from flows.preflight.report import REFUSED, Report
from flows.preflight.sources import Planned
from flows.recipe import Recipe
from flows.runtime.budget import check_stage_budget
from infra.scratch import ScratchFolder
from pipelines.counts import Counts
from pipelines.ingest.accounting import IngestedSource
from pipelines.ingest.events import columns as event_columns
from pipelines.ingest.events.ingest import ingest_interactions
from pipelines.ingest.events.known_items import known_items
from pipelines.ingest.events.rows import EventRules
from pipelines.ingest.items import columns as item_columns
from pipelines.ingest.items.ingest import ingest_items
from pipelines.ingest.items.marks import doubtful_attributes
from pipelines.profile.sample import SAMPLE_ROWS, spread
from pipelines.profile.sampled import Sampled
from pipelines.sources.cells import in_one_line
from pipelines.sources.column_names import differences, header_of, lacking_headers, near_columns
from pipelines.sources.row import SourceError
from pipelines.sources.source_spec import InteractionsSpec, ItemsSpec, ItemsWithoutImages
from storage.commit import Provenance
from storage.errors import QuarantineBudgetExceeded
from storage.lake import Lake
from storage.quarantine import open_rows
from storage.reasons import Reason
from storage.releases.catalogue import catalogue

PROVENANCE = Provenance("recipe check", "")
OPTIONAL = (
    *("image", "deleted", "event_id", "event_type", "arrival_time"),
    *("session_id", "request_id", "impression", "position", "value"),
)
"""Fields whose column may be absent, so that a warning is given only for a name other than the default."""
MAX_NAMED = 12
"""Columns that a warning lists."""


@dataclass
class Tried:
    """Outcome of a section: counts of the sample, whether it was all rows, and the seconds to read and convert it.

    `pictures` counts those that accepted rows name.
    """

    planned: Planned
    counts: Counts
    whole: bool
    seconds: float
    sampled: list[Sampled] = field(default_factory=list)
    note: str = ""
    pictures: int = 0

    @property
    def rows(self) -> int:
        """Number of all rows, as far as it is known."""
        return self.counts.rows_in if self.whole else max(self.planned.rows, self.counts.rows_in)

    @property
    def accepted(self) -> int:
        """Estimated number of rows that would be accepted, of all rows."""
        share = self.counts.quarantined / self.counts.rows_in if self.counts.rows_in else 0.0
        return round(self.rows * (1 - share))


@dataclass
class Trial:
    """A lake that holds the samples."""

    lake: Lake
    items: Tried
    interactions: Tried

    @property
    def catalogue(self) -> pl.DataFrame:
        """The sampled items that are not deleted."""
        return catalogue(self.lake).filter(~pl.col("deleted"))


@contextmanager
def tried(
    report: Report, recipe: Recipe, items: Planned, interactions: Planned, lake: Lake | None, clock: datetime
) -> Iterator[Trial]:
    """Ingest samples of the sources into a temporary lake, and report what was refused."""
    with ScratchFolder("check") as folder:
        sample = Lake(folder)
        spec = ItemsWithoutImages.of(recipe.items)
        items_tried = _ingested(report, items, lambda each: ingest_items(sample, each, spec, clock, PROVENANCE))
        log_tried = _ingested(
            report,
            interactions,
            lambda each: ingest_interactions(sample, each, recipe.interactions, clock, PROVENANCE),
        )
        trial = Trial(sample, items_tried, log_tried)
        _judge_unknown_items(report, trial, lake)
        for each in (items_tried, log_tried):
            _missing_columns(report, each)
            _judge_refusals(report, each, recipe)
        yield trial


def _ingested(report: Report, planned: Planned, read: Callable[[Sampled], IngestedSource]) -> Tried:
    """Ingest a sample of a section's sources by `read`; report those that cannot be read as errors."""
    chosen = spread(planned.sources)
    limit = max(1, SAMPLE_ROWS // max(1, len(chosen)))
    done = Tried(planned, Counts(planned.section), len(chosen) == len(planned.sources), 0.0)
    outcomes = list[IngestedSource]()
    for source in chosen:
        done.sampled.append(Sampled(source, limit))
        try:
            outcome = read(done.sampled[-1])
        except SourceError as error:
            report.errors.append(str(error))
            done.whole = False
            continue
        done.counts.add(outcome.stages[0])
        done.pictures += outcome.unread_pictures
        outcomes.append(outcome)
        done.whole &= outcome.stages[0].rows_in < limit
    report.warnings += doubtful_attributes(outcomes)
    done.seconds = _seconds(done)
    if planned.count and planned.count.exact and planned.count.rows <= done.counts.rows_in:
        done.whole = True
    return done


def _seconds(done: Tried) -> float:
    """Return the time to read and convert the sample once more.

    The time of a commit is left out: it is the same for a sample and for a hundred times as many rows.
    """
    spec, began = done.planned.spec, time.monotonic()
    for sampled in done.sampled:
        try:
            for part in sampled.parts(spec, SAMPLE_ROWS):
                if isinstance(spec, ItemsSpec):
                    item_columns.parse(part, spec)
                else:
                    event_columns.parse(part, EventRules(spec, datetime.now(UTC)))
        except SourceError:  # reported already
            continue
    return time.monotonic() - began


def _judge_unknown_items(report: Report, trial: Trial, lake: Lake | None) -> None:
    """Leave out refused events whose item may be in the part of the catalogue that the sample lacks, or in the lake."""
    counts = trial.interactions.counts
    if not counts.by_reason.get(Reason.UNKNOWN_ITEM):
        return
    waiting = open_rows(trial.lake, reason=Reason.UNKNOWN_ITEM)
    named = [json.loads(payload)["item_id"] for payload in waiting["payload"]]
    in_lake = known_items(lake, set(named)) if lake is not None and lake.exists("items") else set()
    unknown, example = sum(item not in in_lake for item in named), waiting["detail"][0]
    del counts.by_reason[Reason.UNKNOWN_ITEM]
    if unknown and unknown == counts.rows_in - counts.quarantined:
        report.warnings.append(
            f"no event of the sample names an item of the catalogue's sample ({example}): "
            f"are the ids in interactions.item_id those in items.item_id ({trial.items.planned.spec.item_id})?"
        )
    if unknown and not trial.items.whole:
        trial.interactions.note = "; items that the catalogue's sample lacks may be in the rest of it"
        unknown = 0
    counts.out += len(named) - unknown
    counts.refuse(Reason.UNKNOWN_ITEM, unknown, example)


def _missing_columns(report: Report, done: Tried) -> None:
    """Report columns that the recipe names and no sampled row has, with similar columns that exist."""
    spec: ItemsSpec | InteractionsSpec = done.planned.spec
    columns: dict[str, None] = {}  # in the order of the sources
    warned = set[str]()
    for sampled in done.sampled:
        columns |= sampled.columns
    headers = [header for sampled in done.sampled if (header := header_of(sampled, spec))]
    report.warnings += lacking_headers(headers, spec)
    report.warnings += differences(headers)
    for header in headers:
        for wanted, other in near_columns(header, spec).items():
            warned.add(wanted)
            report.warnings.append(
                f"{header.file} has no column {wanted!r}; if {other!r} is that column, name it in "
                f"[{spec.section}] of the recipe"
            )
    if not columns:
        return
    defaults = ItemsSpec() if isinstance(spec, ItemsSpec) else InteractionsSpec()
    for name, default in defaults.model_dump().items():
        column = getattr(spec, name)
        needed = name in ("item_id", "user_id", "event_time") or (name == "title" and column != default)
        expected = needed or (name in OPTIONAL and column and column != default)
        if expected and column not in columns and column not in warned:
            similar = difflib.get_close_matches(column, columns, 1)
            hint = f"did you mean {similar[0]!r}? " if similar else ""
            report.warnings.append(
                f"{spec.section}.{name} names the column {column!r}, which no sampled row has; {hint}the columns are "
                f"{in_one_line(', '.join(list(columns)[:MAX_NAMED]))}"
            )


def _judge_refusals(report: Report, done: Tried, recipe: Recipe) -> None:
    """Report refused rows of the sample, and an error if the same share of all rows would stop the run."""
    counts = done.counts
    if not counts.rows_in:
        if done.planned.sources:
            report.warnings.append(f"{counts.stage}: there are no rows")
        return
    which = "all" if done.whole else "the first"
    share = counts.quarantined / counts.rows_in
    summary = f"{which} {counts.rows_in:,} rows: {counts.quarantined:,} would be refused ({share:.1%}){done.note}"
    report.add(REFUSED, counts.stage, summary)
    for reason, rows in sorted(counts.by_reason.items(), key=lambda each: -each[1]):
        report.add(REFUSED, "", f"{rows:,} {reason}: {counts.examples[reason]}")
    total = done.rows
    scaled = Counts(f"ingest {counts.stage}", rows_in=total, examples=counts.examples)
    for reason, rows in counts.by_reason.items():
        scaled.refuse(reason, round(rows * total / counts.rows_in), counts.examples[reason])
    try:
        check_stage_budget(scaled, recipe.budget)
    except QuarantineBudgetExceeded:
        report.errors.append(
            f"{counts.stage}: about {scaled.quarantined:,} of {total:,} rows would be refused, more than "
            f"budget.quarantine_share = {recipe.budget.quarantine_share} allows: {counts.why()}"
        )
