"""Differences between two releases: items, SIDs per level, quality, and the models trained on them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.inspect.evaluation_tables import figures
from pipelines.quality import churn, kept_codes
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
    "collision_rate",
    "capacity_used",
    "consumed_together_sharing",
    "random_pairs_sharing",
    "utilisation",
    "gini",
    "max_load",
)


def diff_releases(lake: Lake, before: Manifest, after: Manifest) -> dict[str, Any]:
    """Count items added, removed and kept, and measure `churn`: the share of kept items whose code changed.

    Churn is given per level and for the whole SID. It must be zero under one codebook; under a refit of it (or a refit
    of that) it is measured. Codes of unrelated codebooks have different meanings, so every SID counts as changed.
    `first_code_agreement` is the share of pairs with a common first code in `before` that have one in `after` too.
    """
    tries = [open_trie(lake, manifest) for manifest in (before, after)]
    first, second = kept_codes(*tries)
    same = before.codebook.vocabulary == after.codebook.vocabulary
    refit = not same and _first_fit(lake, before.codebook) == _first_fit(lake, after.codebook)
    return {
        "before": before.id,
        "after": after.id,
        "items": {"added": len(tries[1]) - len(first), "removed": len(tries[0]) - len(first), "kept": len(first)},
        "codebook": {
            "before": before.codebook.id,
            "after": after.codebook.id,
            "same_vocabulary": same,
            "refit": refit,
        },
        "sizes": {"before": list(before.codebook.sizes), "after": list(after.codebook.sizes)},
        "churn": churn(first, second) if same or refit else {"full_sid": 1.0},
        "first_code_agreement": _agreement(first[:, 0], second[:, 0]),
        "metrics": {name: [before.metrics.get(name), after.metrics.get(name)] for name in COMPARED},
        "evaluations": _evaluations(lake, before.id, after.id),
    }


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


def _evaluations(lake: Lake, before: str, after: str) -> dict[str, Any]:
    """Return the newest evaluation of each release, and each figure of both generators with the difference."""
    newest = {each.release: each for each in evaluations(lake)}
    rows = [newest.get(release) for release in (before, after)]
    one, other = (figures(row.result.rankers["generator"]) if row else {} for row in rows)
    sides = [row and {"model": row.model, "cases": row.result.cases} for row in rows]
    return {
        "before": sides[0],
        "after": sides[1],
        "figures": {
            name: [one.get(name), other.get(name), _difference(one.get(name), other.get(name))]
            for name in [*one, *(name for name in other if name not in one)]
        },
    }


def _difference(before: Any, after: Any) -> Any:
    """Return after - before, for lists by element; None if a side has no figure or the lengths differ."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [second - first for first, second in zip(before, after, strict=True)]
    return after - before if isinstance(before, float) and isinstance(after, float) else None


def show_diff(say: Callable[[str], None], diff: dict[str, Any]) -> None:
    """Print a diff in a few lines."""
    items, sizes = diff["items"], diff["sizes"]
    say(f"  {diff['before']} -> {diff['after']}: {items['added']:,} items added, {items['removed']:,} removed, "
        f"{items['kept']:,} kept")  # fmt: skip
    codebook = diff["codebook"]
    if codebook["same_vocabulary"] or codebook["refit"]:
        changed = ", ".join(f"{name.replace('_', ' ')} {share:.1%}" for name, share in diff["churn"].items())
        text = f"a refit, {codebook['before']} -> {codebook['after']}" if codebook["refit"] else "same codebook"
        say(f"    {text}; changed codes: {changed}")
    else:
        shape = " -> ".join(" x ".join(map(str, sizes[side])) for side in ("before", "after"))
        agreement = diff["first_code_agreement"]
        text = "" if agreement is None else f"; {agreement:.1%} of the pairs that shared a first code still share one"
        say(f"    new codebook {shape}: every SID changes{text}")
    for name, (before, after) in diff["metrics"].items():
        if before is not None or after is not None:
            say(f"    {name:<22} {_figure(before):>24}  ->  {_figure(after)}")
    sides = [diff["evaluations"][side] for side in ("before", "after")]
    if any(sides):
        models = [f"{side['model']}, {side['cases']:,} cases" if side else "none" for side in sides]
        say(f"    {'newest evaluation':<22} {models[0]:>24}  ->  {models[1]}")
    for name, (before, after, difference) in diff["evaluations"]["figures"].items():
        changed = "" if difference is None else f"   {_signed(difference)}"
        say(f"    {name:<22} {_figure(before):>24}  ->  {_figure(after)}{changed}")


def _signed(value: Any) -> str:
    return " ".join(map(_signed, value)) if isinstance(value, list) else f"{value:+.4f}"


def _figure(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_figure(each) for each in value)
    return "-" if value is None else f"{value:.4g}"
