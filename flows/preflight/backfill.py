"""Check of a backfill before it: what it would read and encode, whether the codes suffice, and about how long."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec

import pyarrow.dataset as ds

from flows.backfill import check_publishing, check_refit_cutoff
from flows.preflight.codebook import judge_capacity, judge_levels
from flows.preflight.placement import judge_placement
from flows.preflight.report import MAKES, READ, TIME, Report
from flows.preflight.timing import estimate_the_rest, recorded_rate, words
from flows.recipe import Recipe, load_recipe
from flows.runtime.times import bounds
from flows.steps.embed import check_encoders, contents, embed_stage
from pipelines.embed.protocol import EncoderError, fingerprint
from pipelines.event_log.visible_log import LogSlice
from pipelines.given.source import open_given
from pipelines.sources.row import SourceError
from storage.lake import Lake
from storage.releases.catalogue import catalogue
from storage.releases.manifest import EncoderRef, Manifest
from storage.releases.releases import PRODUCTION, read_release

P = ParamSpec("P")


@dataclass(frozen=True)
class PlannedBackfill:
    """A backfill as it would be started."""

    lake: Lake
    recipe: dict[str, Any]
    as_of: str | None = None
    cutoff: str | None = None
    overrides: tuple[str, ...] = ()
    publish: bool = False
    without_model: bool = False


def preflight_backfill(run: PlannedBackfill) -> Report:
    """Return what a backfill would read and make, about how long it would take, and its faults. No model is loaded."""
    report, lake = Report("backfill"), run.lake
    recipe = load_recipe(None, list(run.overrides), run.recipe)
    production = read_release(lake, PRODUCTION)
    as_of, held_out = bounds(run.as_of, run.cutoff)
    as_of = as_of or production.as_of
    cutoff = held_out or min(production.cutoff, as_of)
    items = int((~catalogue(lake, None, as_of, ["deleted"])["deleted"]).sum())
    version = lake.version("interactions")
    events = lake.count("interactions", version, LogSlice(version, as_of, cutoff).visible)
    report.add(READ, "items", f"{items:,} that arrived by {as_of:%Y-%m-%d %H:%M:%S} UTC, without deleted ones")
    report.add(READ, "log", f"{events:,} events before {cutoff:%Y-%m-%d %H:%M:%S} UTC")
    if not items:
        report.errors.append("no item had arrived by then: give a later --as-of, or leave it out")
    if recipe.collaborative is not None and not events:
        report.warnings.append("the recipe has [collaborative], but no event is visible: no behaviour vectors are made")
    encoders = _judge_encoders(report, recipe, lake, items)
    _judge_given(report, recipe)
    if recipe.refit is None:
        judge_levels(report, recipe)
        if items:
            judge_capacity(report, recipe.codebook, items)
    else:
        _judge_refit(report, recipe, production, encoders)
        _add_fault(report, check_refit_cutoff, production, cutoff)
    _add_fault(report, check_publishing, lake, run.publish, run.without_model)
    judge_placement(report, recipe, items)
    estimate_the_rest(report, "backfill", recipe, items, events, lake)
    return report


def _judge_encoders(report: Report, recipe: Recipe, lake: Lake, items: int) -> dict[str, EncoderRef]:
    """Report how many items lack a vector of each encoder, and the time that these take; return the encoders."""
    found = {}
    for content, spec in contents(recipe):
        try:
            details = content.describe(spec)
        except (EncoderError, OSError) as error:
            report.errors.append(f"the {content.name} encoder cannot be loaded: {error}")
            continue
        found[content.name] = EncoderRef(fingerprint=fingerprint(details), details=details)
        under = (ds.field("modality") == content.name) & (ds.field("fingerprint") == found[content.name].fingerprint)
        stored = lake.count("vectors", lake.version("vectors"), under)
        lacking = max(0, items - stored)
        report.add(MAKES, content.name, f"vectors of about {lacking:,} items; {stored:,} of this encoder are stored")
        rate = recorded_rate(lake, embed_stage(content.name))
        if lacking and rate is not None:
            report.add(TIME, f"embed {content.name}", f"{words(rate.seconds * lacking)}, {rate.by}")
        elif lacking:
            report.add(
                TIME, f"embed {content.name}", f"unknown for about {lacking:,} items: no run on this lake encoded"
            )
    return found


def _judge_given(report: Report, recipe: Recipe) -> None:
    """Report the width of given vectors, or why they cannot be read."""
    for name, spec in recipe.vectors.items():
        try:
            source = open_given(name, spec)
        except SourceError as error:
            report.errors.append(str(error))
            continue
        report.add(READ, f"vectors.{name}", f"{sum(part.rows for part in source.parts):,} rows, width {source.dim}")


def _is_named(recipe: Recipe, modality: str) -> bool:
    return modality in recipe.vectors or getattr(recipe, modality, None) is not None


def _add_fault(report: Report, check: Callable[P, None], *args: P.args, **others: P.kwargs) -> None:
    """Report the fault that a check of the run itself finds."""
    try:
        check(*args, **others)
    except ValueError as error:
        report.errors.append(str(error))


def _judge_refit(report: Report, recipe: Recipe, production: Manifest, encoders: dict[str, EncoderRef]) -> None:
    """Report what a refit changes at the most, and other encoders than those of production."""
    assert recipe.refit is not None
    kept, changed = production.codebook.id, recipe.refit.budget
    report.add(MAKES, "codebook", f"a refit of {kept}: at most {changed:.1%} of {production.items:,} SIDs change")
    # Not compared: encoders that cannot be loaded, which is told, and given vectors that the recipe still names.
    left_out = {name for name in production.encoders if name not in encoders and _is_named(recipe, name)}
    pinned = {name: each for name, each in production.encoders.items() if name not in left_out}
    _add_fault(report, check_encoders, production.id, pinned, encoders)
