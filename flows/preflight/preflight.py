"""Check of a run before it: reads samples, opens encoders and given vectors, and writes nothing to the lake."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flows.preflight.codebook import judge_fit, judge_night
from flows.preflight.contents import Contents, look_at_contents, look_at_given
from flows.preflight.placement import judge_placement
from flows.preflight.report import Report
from flows.preflight.sources import Planned, plan
from flows.preflight.timing import estimate_encoding, estimate_ingest, estimate_the_rest, scale
from flows.preflight.trial import Trial, tried
from flows.recipe import Recipe, load_recipe, unapplied_by_nights
from flows.runtime.times import bounds, parse_time
from flows.snapshot import check_as_of
from flows.steps.embed import EncoderChanged, check_encoders
from flows.steps.given import is_given
from pipelines.sources.source_spec import ItemsWithoutImages
from storage.lake import Lake
from storage.releases.releases import published, read_release, release_of_fit


@dataclass(frozen=True)
class PlannedRun:
    """A run of a kind (bootstrap, nightly or ingest) as it would be started; `lake` is None where none is named."""

    kind: str
    recipe: dict[str, Any]
    items: list[str]
    interactions: list[str]
    lake: Lake | None = None
    parent: str | None = None
    as_of: str | None = None
    cutoff: str | None = None
    overrides: tuple[str, ...] = ()


def preflight(run: PlannedRun, *, quick: bool = False) -> Report:
    """Return what a run would read and make, about how long it would take, and its faults.

    With `quick`, no encoder is loaded, so the time of encoding is estimated only from runs on the lake.
    """
    report = Report(run.kind)
    recipe = load_recipe(None, list(run.overrides), run.recipe)
    bounds(run.as_of, run.cutoff)
    clock = parse_time(run.as_of) or datetime.now(UTC)
    mapping = recipe.items if recipe.image is not None else ItemsWithoutImages.of(recipe.items)
    items = plan(report, "items", run.items, mapping, run.lake)
    interactions = plan(report, "interactions", run.interactions, recipe.interactions, run.lake)
    with tried(report, recipe, items, interactions, run.lake, clock) as trial:
        if run.kind == "ingest":
            estimate_ingest(report, trial)
            return report
        found = look_at_contents(report, recipe, trial)
        look_at_given(report, recipe, trial, found, run.lake)
        _judge_codebook(report, run, recipe, trial, found, clock)
        _judge_log(report, run, recipe, interactions)
        judge_placement(report, recipe, trial.catalogue.height * scale(trial.items))
        estimate_ingest(report, trial)
        estimate_encoding(report, recipe, trial, found, run.lake, quick=quick)
        estimate_the_rest(report, run.kind, recipe, trial.items.accepted, trial.interactions.accepted, run.lake)
    return report


def _judge_codebook(
    report: Report, run: PlannedRun, recipe: Recipe, trial: Trial, found: Contents, clock: datetime
) -> None:
    if run.parent is None or run.lake is None:
        if run.lake is not None and (current := published(run.lake)):
            report.warnings.append(
                f"production points to {current.release} already, so a bootstrap is skipped; add new items with "
                "`sidmill run nightly`"
            )
        judge_fit(report, recipe, trial, run.lake)
        return
    parent = read_release(run.lake, run.parent)
    try:
        check_as_of(clock if run.as_of else None, parent)
        left_out = {*found.unloadable, *(name for name, each in parent.encoders.items() if is_given(each))}
        pinned = {name: each for name, each in parent.encoders.items() if name not in left_out}
        check_encoders(parent.id, pinned, found.encoders)
    except (EncoderChanged, ValueError) as error:
        report.errors.append(str(error))
    fitted = release_of_fit(run.lake, parent)
    if note := unapplied_by_nights(fitted.id, fitted.recipe, recipe):
        report.warnings.append(note)
    judge_night(report, recipe, trial, run.lake, parent)


def _judge_log(report: Report, run: PlannedRun, recipe: Recipe, interactions: Planned) -> None:
    known = run.lake is not None and run.lake.exists("interactions")
    if recipe.collaborative is not None and not interactions.sources and not known:
        report.warnings.append(
            "the recipe has [collaborative], but there is no log: give one with --interactions PATH, or remove the "
            "section"
        )
