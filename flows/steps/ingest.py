"""Step: read new source files into the lake, and stop the run when too much of them is bad."""

from datetime import datetime

import pyarrow.dataset as ds

from flows.progress import StageView
from flows.run import Run
from flows.steps.task import step
from pipelines.ingest import Counts, IngestedSource, unread
from pipelines.ingest_interactions import admit_waiting, ingest_interactions, waiting_for_known_items
from pipelines.ingest_items import ingest_items
from pipelines.sources import Source, find_sources
from pipelines.spec import BudgetSpec
from storage.errors import QuarantineBudgetExceeded
from storage.lake import Lake


@step
def ingest(run: Run, items: list[str], interactions: list[str]) -> None:
    """Read the sources that were not read before, catalogue first, then let in events that waited for an item."""
    new_items = _unread(run, "items", items)
    new_logs = _unread(run, "interactions", interactions)
    for source in new_items:
        with run.stage("ingest items") as view:
            done = ingest_items(run.lake, source, run.recipe.items, run.clock, run.provenance())
            _show(view, done)
    for source in new_logs:
        with run.stage("ingest log") as view:
            done = ingest_interactions(run.lake, source, run.recipe.interactions, run.clock, run.provenance())
            _show(view, done)
    if waiting_for_known_items(run.lake):
        run.record.begin()
        with run.stage("admit waiting") as view:
            admitted = admit_waiting(run.lake, run.clock, run.provenance())
            view.note(f"{admitted:,} events whose item has arrived", rows_out=admitted)


def _unread(run: Run, kind: str, uris: list[str]) -> list[Source]:
    sources = [source for uri in uris for source in find_sources(uri)]
    fresh = unread(run.lake, kind, sources)
    if sources and not fresh:
        run.say(f"  ingest {kind}: skipped, all {len(sources)} source file(s) were read before (same content)")
    if fresh:
        run.record.begin()
    return fresh


def _show(view: StageView, done: IngestedSource) -> None:
    rows, *others = done.stages
    view.count(rows)
    for stage in others:
        if stage.rows_in:
            view.count(stage, "images")


def check_budget(stage: str, rows: int, refused: int, budget: BudgetSpec) -> None:
    """Raise QuarantineBudgetExceeded when a stage refused too much."""
    share = refused / rows if rows else 0.0
    if refused > budget.quarantine_rows and share > budget.quarantine_share:
        raise QuarantineBudgetExceeded(
            f"{stage}: {refused:,} of {rows:,} rows ({share:.1%}) were quarantined, the recipe allows "
            f"{budget.quarantine_share:.1%} (budget.quarantine_share) beyond {budget.quarantine_rows} rows. Nothing "
            "was published. See `sidmill quarantine list`; mend the source, or raise the budget with "
            "--set budget.quarantine_share=..."
        )


def check_ingest_budget(lake: Lake, since: datetime | None, budget: BudgetSpec) -> None:
    """Judge all sources read since a release was made, so that a rerun does not slip past the budget."""
    where = None if since is None else ds.field("at") > since
    rows = lake.frame("sources", where=where)
    for kind in ("items", "interactions"):
        own = rows.filter(rows["kind"] == kind)
        check_budget(f"ingest {kind}", int(own["rows_in"].sum()), int(own["rows_quarantined"].sum()), budget)


def check_stage_budget(counts: Counts, budget: BudgetSpec) -> None:
    """Judge one stage of this run."""
    check_budget(counts.stage, counts.rows_in, counts.quarantined, budget)
