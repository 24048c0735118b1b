"""Differences between two releases: items, SIDs per level, quality, and the models trained on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.inspect.evaluation_tables import figures
from pipelines.quality import Churn, churn, kept_codes
from sidmill.release import open_trie
from storage.lake import Lake
from storage.releases.manifest import CodebookRef, Manifest
from storage.releases.models import evaluations
from storage.releases.releases import recorded_releases

# Metrics of a release that a diff shows.
COMPARED = (
    "relative_error",
    "neighbours_sharing",
    "new_items_distance",
    "mean_drift",
    "log_coverage",
    "collision_rate",
    "capacity_used",
    "consumed_together_sharing",
    "random_pairs_sharing",
    "utilisation",
    "gini",
    "max_load",
)


Value = float | list[float] | None
"""A figure, one for each level, or none."""


@dataclass(frozen=True)
class ItemChanges:
    """Numbers of items that only the later release has, that only the earlier one has, and that both have."""

    added: int
    removed: int
    kept: int


@dataclass(frozen=True)
class CodebookChange:
    """The codebooks of two releases. `refit`: their vocabularies differ, and both go back to one fit by refits."""

    before: CodebookRef
    after: CodebookRef
    same_vocabulary: bool
    refit: bool

    @property
    def comparable(self) -> bool:
        """True if codes of both mean the same, or nearly the same."""
        return self.same_vocabulary or self.refit

    def as_record(self) -> dict[str, Any]:
        return {
            "before": self.before.id,
            "after": self.after.id,
            "same_vocabulary": self.same_vocabulary,
            "refit": self.refit,
        }


@dataclass(frozen=True)
class EvaluatedModel:
    """A model, and the number of cases of its evaluation."""

    model: str
    cases: int


@dataclass(frozen=True)
class EvaluationChanges:
    """The newest evaluation of each release; by name, each figure of both generators and the difference."""

    before: EvaluatedModel | None
    after: EvaluatedModel | None
    figures: Mapping[str, tuple[Value, Value, Value]]

    def as_record(self) -> dict[str, Any]:
        return {
            "before": vars(self.before) if self.before else None,
            "after": vars(self.after) if self.after else None,
            "figures": {name: list(three) for name, three in self.figures.items()},
        }


@dataclass(frozen=True)
class ReleaseDiff:
    """Differences between the releases `before` and `after`; `metrics` has each of COMPARED in both.

    `first_code_agreement` is the share of pairs of items with a common first code in one that have one in the other
    too, None without such pairs.
    """

    before: str
    after: str
    items: ItemChanges
    codebook: CodebookChange
    churn: Churn
    first_code_agreement: float | None
    metrics: Mapping[str, tuple[Value, Value]]
    evaluations: EvaluationChanges

    def as_record(self) -> dict[str, Any]:
        """Return the record for `sidmill release diff --json`."""
        return {
            "before": self.before,
            "after": self.after,
            "items": vars(self.items),
            "codebook": self.codebook.as_record(),
            "sizes": {"before": list(self.codebook.before.sizes), "after": list(self.codebook.after.sizes)},
            "churn": self.churn.as_record(),
            "first_code_agreement": self.first_code_agreement,
            "metrics": {name: list(both) for name, both in self.metrics.items()},
            "evaluations": self.evaluations.as_record(),
        }


def diff_releases(lake: Lake, before: Manifest, after: Manifest) -> ReleaseDiff:
    """Count items added, removed and kept, and measure `churn`: the share of kept items whose code changed.

    Churn is given per level and for the whole SID. It must be zero under one codebook; under a refit of it (or a refit
    of that) it is measured. Codes of unrelated codebooks have different meanings, so every SID counts as changed.
    `first_code_agreement` is the share of pairs with a common first code in `before` that have one in `after` too.
    """
    tries = [open_trie(lake, manifest) for manifest in (before, after)]
    first, second = kept_codes(*tries)
    same = before.codebook.vocabulary == after.codebook.vocabulary
    refit = not same and _first_fit(lake, before.codebook) == _first_fit(lake, after.codebook)
    codebook = CodebookChange(before.codebook, after.codebook, same, refit)
    return ReleaseDiff(
        before=before.id,
        after=after.id,
        items=ItemChanges(len(tries[1]) - len(first), len(tries[0]) - len(first), len(first)),
        codebook=codebook,
        churn=churn(first, second) if codebook.comparable else Churn([], 1.0),
        first_code_agreement=_agreement(first[:, 0], second[:, 0]),
        metrics={name: (before.metrics.get(name), after.metrics.get(name)) for name in COMPARED},
        evaluations=_evaluations(lake, before.id, after.id),
    )


def _first_fit(lake: Lake, codebook: CodebookRef) -> str:
    """Return the first codebook in the chain of refits that led to this one; itself if it is no refit."""
    refits = {each.codebook.id: each.codebook.refit_of for each in recorded_releases(lake)}
    first = codebook.id
    while former := refits.pop(first, None):
        first = former
    return first


def _agreement(before_N: NDArray[np.int32], after_N: NDArray[np.int32]) -> float | None:
    """Return the share of pairs with a common first code before that have one after too; from counts alone."""
    firsts = pl.DataFrame({"a": before_N, "b": after_N})

    def pairs(*by: str) -> int:
        counts = firsts.group_by(by).len()["len"].cast(pl.Int64)
        return int((counts * (counts - 1) // 2).sum())

    together = pairs("a")
    return pairs("a", "b") / together if together else None


def _evaluations(lake: Lake, before: str, after: str) -> EvaluationChanges:
    """Return the newest evaluation of each release, and each figure of both generators with the difference."""
    newest = {each.release: each for each in evaluations(lake)}
    rows = [newest.get(release) for release in (before, after)]
    one, other = (figures(row.result.rankers["generator"]) if row else {} for row in rows)
    sides = [EvaluatedModel(row.model, row.result.cases) if row else None for row in rows]
    return EvaluationChanges(
        before=sides[0],
        after=sides[1],
        figures={
            name: (one.get(name), other.get(name), _difference(one.get(name), other.get(name)))
            for name in [*one, *(name for name in other if name not in one)]
        },
    )


def _difference(before: Value, after: Value) -> Value:
    """Return after - before, for lists by element; None if a side has no figure or the lengths differ."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [second - first for first, second in zip(before, after, strict=True)]
    return after - before if isinstance(before, float) and isinstance(after, float) else None


def show_diff(say: Callable[[str], None], diff: ReleaseDiff) -> None:
    """Print a diff in a few lines."""
    items, codebook = diff.items, diff.codebook
    say(f"  {diff.before} -> {diff.after}: {items.added:,} items added, {items.removed:,} removed, {items.kept:,} kept")
    if codebook.comparable:
        changed = ", ".join(f"{name.replace('_', ' ')} {share:.1%}" for name, share in diff.churn.as_record().items())
        text = f"a refit, {codebook.before.id} -> {codebook.after.id}" if codebook.refit else "same codebook"
        say(f"    {text}; changed codes: {changed}")
    else:
        shape = " -> ".join(" x ".join(map(str, side.sizes)) for side in (codebook.before, codebook.after))
        agreement = diff.first_code_agreement
        text = "" if agreement is None else f"; {agreement:.1%} of the pairs that shared a first code still share one"
        say(f"    new codebook {shape}: every SID changes{text}")
    for name, (before, after) in diff.metrics.items():
        if before is not None or after is not None:
            say(f"    {name:<22} {_figure(before):>24}  ->  {_figure(after)}")
    sides = [diff.evaluations.before, diff.evaluations.after]
    if any(sides):
        models = [f"{side.model}, {side.cases:,} cases" if side else "none" for side in sides]
        say(f"    {'newest evaluation':<22} {models[0]:>24}  ->  {models[1]}")
    for name, (before, after, difference) in diff.evaluations.figures.items():
        changed = "" if difference is None else f"   {_signed(difference)}"
        say(f"    {name:<22} {_figure(before):>24}  ->  {_figure(after)}{changed}")


def _signed(value: float | list[float]) -> str:
    return " ".join(map(_signed, value)) if isinstance(value, list) else f"{value:+.4f}"


def _figure(value: Value) -> str:
    if isinstance(value, list):
        return " ".join(_figure(each) for each in value)
    return "-" if value is None else f"{value:.4g}"
