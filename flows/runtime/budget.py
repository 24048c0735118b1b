"""The quarantine budget of a run."""

from pipelines.counts import Counts
from pipelines.spec import BudgetSpec
from storage.errors import QuarantineBudgetExceeded


def check_stage_budget(counts: Counts, budget: BudgetSpec, files: list[str] | None = None) -> None:
    """Raise QuarantineBudgetExceeded if a stage refused too many rows; an ingest gives the `files` that held them."""
    _check_reasons(counts, budget, files)
    rows, refused = counts.rows_in, counts.quarantined
    share = refused / rows if rows else 0.0
    if refused > budget.quarantine_rows and share > budget.quarantine_share:
        raise QuarantineBudgetExceeded(
            f"{counts.stage}: {refused:,} of {rows:,} rows ({share:.1%}){_of(files)} were quarantined "
            f"({counts.why()}). The recipe allows {budget.quarantine_share:.1%} (budget.quarantine_share) beyond "
            f"{budget.quarantine_rows} rows. {_state(counts, files)} See `sidmill quarantine list`; correct "
            "the input or the recipe and run again, or let this run pass once with --set budget.quarantine_share=1."
        )


def _check_reasons(counts: Counts, budget: BudgetSpec, files: list[str] | None) -> None:
    for reason, limit in budget.reasons.items():
        refused = counts.by_reason.get(reason, 0)
        share = refused / counts.rows_in if refused else 0.0
        if share > limit:
            raise QuarantineBudgetExceeded(
                f"{counts.stage}: {refused:,} of {counts.rows_in:,} rows ({share:.1%}){_of(files)} were quarantined as "
                f"{reason} ({counts.examples.get(reason, '')}). The recipe allows {limit:.1%} (budget.reasons). "
                f"{_state(counts, files)} See `sidmill quarantine list --reason {reason}`; correct the input or the "
                f"recipe and run again, or let this run pass once with --set budget.reasons.{reason}=1."
            )


def _state(counts: Counts, files: list[str] | None) -> str:
    """Return what became of the rows: those that an ingest accepted stay in the lake."""
    if files is None or not counts.out:
        return "Nothing was published."
    return (
        f"Nothing was published yet, but the {counts.out:,} rows that were accepted stay: the next night that passes "
        "publishes them."
    )


def _of(files: list[str] | None) -> str:
    if not files:
        return ""
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return f" of {', '.join(files[:3])}{more}"
