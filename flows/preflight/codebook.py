"""Judgement of the codebook: room for the items, and vectors for all levels."""

import math

import polars as pl

from flows.preflight.report import MAKES, Report
from flows.preflight.trial import Trial
from flows.recipe import Recipe
from pipelines.modalities import FUSED, MADE_HERE
from storage.lake import Lake
from storage.releases.catalogue import catalogue, count_sids
from storage.releases.manifest import Manifest
from tokenizer.codebook import check_capacity
from tokenizer.errors import CapacityExhausted, VectorError
from tokenizer.spec import CodebookSpec


def judge_fit(report: Report, recipe: Recipe, trial: Trial, lake: Lake | None) -> None:
    """Report the capacity of a new codebook against the items, and levels without vectors."""
    judge_levels(report, recipe)
    if trial.items.planned.count is None and not trial.items.whole:
        report.warnings.append("codebook: the number of items is unknown before they are read")
        return
    items = trial.items.accepted + _stored(lake)
    if not items and not trial.items.planned.sources:
        if not trial.items.planned.named:
            report.errors.append("there is no catalogue: give one with --items PATH")
        return
    judge_capacity(report, recipe.codebook, items, "" if trial.items.whole and not _stored(lake) else "about ")


def judge_levels(report: Report, recipe: Recipe) -> None:
    """Report a recipe that makes no vectors, and levels without vectors."""
    spec = recipe.codebook
    made = {FUSED, *(name for name in MADE_HERE if getattr(recipe, name, None) is not None), *recipe.vectors}
    if made == {FUSED}:
        report.errors.append(
            "the recipe makes no vectors: add a section such as [text], [image], [attributes], [collaborative] or "
            "[vectors.NAME]"
        )
    absent = [name for name in spec.fit_sources if name not in made]
    if absent:
        report.errors.append(
            f"codebook.levels encode {', '.join(absent)}, but the recipe makes {', '.join(sorted(made))}: change the "
            "source of the levels, or add the section"
        )


def judge_capacity(report: Report, spec: CodebookSpec, items: int, about: str = "") -> None:
    """Report the SIDs of a new codebook beside the items."""
    shape = " x ".join(str(level.codes) for level in spec.levels)
    sids = math.prod(level.codes for level in spec.levels)
    try:
        check_capacity(spec, items)
    except (CapacityExhausted, VectorError) as error:
        report.errors.append(str(error))
        return
    report.add(
        MAKES,
        "codebook",
        f"{spec.quantizer} {shape}: {sids:,} SIDs for {about}{items:,} items, {math.ceil(spec.growth * items):,} "
        f"planned",
    )


def _stored(lake: Lake | None) -> int:
    """Return the items that the lake has, deleted ones left out."""
    return 0 if (deleted := _deleted(lake)) is None else int((~deleted).sum())


def _deleted(lake: Lake | None) -> pl.Series | None:
    """Return for each item that the lake has whether it is deleted; None for a lake without a catalogue."""
    return catalogue(lake, columns=["deleted"])["deleted"] if lake is not None and lake.exists("items") else None


def judge_night(report: Report, recipe: Recipe, trial: Trial, lake: Lake, parent: Manifest) -> None:
    """Report the room that the codebook of a release has for new items."""
    rows = lake.frame("codebooks", columns=["codebook", "planned_items"])
    planned = dict(rows.iter_rows()).get(parent.codebook.id)
    if not planned:
        return
    waiting = max(0, _stored(lake) - parent.items)
    deleted = _deleted(trial.lake)
    gone = int(deleted.sum()) / len(deleted) if deleted is not None and len(deleted) else 0.0
    new = waiting + round(trial.items.accepted * (1 - gone))
    taken = count_sids(lake, parent.codebook.id, parent.assignments)
    used = (taken + new) / planned
    report.add(
        MAKES,
        "SIDs",
        f"for at most {new:,} items beside the {parent.items:,} of {parent.id}"
        f"{f', of which {waiting:,} wait in the lake' if waiting else ''}, under its codebook: {used:.0%} of "
        f"the {planned:,} planned{', with SIDs of deleted items' if taken > parent.items else ''}",
    )
    limit = getattr(recipe.gates, "capacity_used").limit  # noqa: B009 - fields of [gates] are made at run time
    if used > limit:
        report.warnings.append(
            f"the codebook of {parent.id} is planned for {planned:,} items, and {taken + new:,} would be more "
            f"than {limit:.0%} of them: plan `sidmill run backfill` with more codes or a larger codebook.growth"
        )
