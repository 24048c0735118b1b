"""What changed from one release to another: items, SIDs per level, quality, and the models trained on them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from flows.evaluation_tables import figures
from storage.lake import Lake
from storage.manifest import Manifest
from storage.models import evaluations
from tokenizer.trie import Trie

COMPARED = (
    "relative_error",
    "neighbours_sharing_1",
    "neighbours_sharing_2",
    "new_items_distance",
    "collision_rate",
    "capacity_used",
)
COMPARED_LEVELS = ("consumed_together_sharing", "random_pairs_sharing", "utilisation", "gini", "max_load")


def open_trie(lake: Lake, manifest: Manifest) -> Trie:
    """The trie a release pins, verified."""
    return Trie.open(lake.blobs.local_path(manifest.trie.sha256))


def diff_releases(lake: Lake, before: Manifest, after: Manifest) -> dict[str, Any]:
    """Items added, removed and kept; of the kept ones the share whose code changed, per level and as a whole.

    Under one codebook churn must be zero, and under a refit of it within its budget. Under two other codebooks codes
    mean different things, so every SID counts as changed and `first_code_agreement` says how far both group the items
    alike (share of pairs that share a first code in `before` and share one in `after`).
    """
    tables = [_sids(open_trie(lake, manifest)) for manifest in (before, after)]
    kept = tables[0].join(tables[1], on="item_id", suffix="_after")
    same = before.codebook.vocabulary == after.codebook.vocabulary
    alike = same or after.codebook.refit_of == before.codebook.id
    return {
        "before": before.id,
        "after": after.id,
        "items": {
            "added": tables[1].join(tables[0], on="item_id", how="anti").height,
            "removed": tables[0].join(tables[1], on="item_id", how="anti").height,
            "kept": kept.height,
        },
        "codebook": {"before": before.codebook.id, "after": after.codebook.id, "same_vocabulary": same},
        "sizes": {"before": list(before.codebook.sizes), "after": list(after.codebook.sizes)},
        "churn": _churn(kept) if alike else {"full_sid": 1.0},
        "first_code_agreement": _agreement(kept),
        "metrics": {name: [before.metrics.get(name), after.metrics.get(name)] for name in COMPARED + COMPARED_LEVELS},
        "evaluations": _evaluations(lake, before.id, after.id),
    }


def _sids(trie: Trie) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": pl.Series(trie.item_ids, dtype=pl.String),
            "codes": pl.Series(trie.codes().tolist(), dtype=pl.List(pl.Int64)),
        }
    )


def _churn(kept: pl.DataFrame) -> dict[str, float]:
    if kept.is_empty():
        return {"full_sid": 0.0}
    first, second = (np.array(kept[name].to_list()) for name in ("codes", "codes_after"))
    changed = first != second
    levels = {f"level_{level + 1}": float(changed[:, level].mean()) for level in range(changed.shape[1])}
    return {**levels, "full_sid": float(changed.any(axis=1).mean())}


def _agreement(kept: pl.DataFrame) -> float | None:
    """Pairs that share a first code in both, over pairs that share one in the first; from counts alone."""
    firsts = kept.select(a=pl.col("codes").list.first(), b=pl.col("codes_after").list.first())

    def pairs(*by: str) -> int:
        counts = firsts.group_by(by).len()["len"].cast(pl.Int64)
        return int((counts * (counts - 1) // 2).sum())

    together = pairs("a") if kept.height else 0
    return pairs("a", "b") / together if together else None


def _evaluations(lake: Lake, before: str, after: str) -> dict[str, Any]:
    """The newest evaluation of each release, and per figure of the generators both and the difference."""
    newest = {row["release"]: row for row in evaluations(lake)}
    rows = [newest.get(release) for release in (before, after)]
    one, other = (figures(row["result"]["generator"]) if row else {} for row in rows)
    sides = [row and {"model": row["model"], "cases": row["result"]["cases"]} for row in rows]
    return {
        "before": sides[0],
        "after": sides[1],
        "figures": {
            name: [one.get(name), other.get(name), _difference(one.get(name), other.get(name))]
            for name in [*one, *(name for name in other if name not in one)]
        },
    }


def _difference(before: Any, after: Any) -> Any:
    """after - before, of lists code by code; none where a side has no figure or another number of them."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [second - first for first, second in zip(before, after, strict=True)]
    return after - before if isinstance(before, float) and isinstance(after, float) else None


def show_diff(say: Callable[[str], None], diff: dict[str, Any]) -> None:
    """The diff in a few lines."""
    items, sizes = diff["items"], diff["sizes"]
    say(f"  {diff['before']} -> {diff['after']}: {items['added']:,} items added, {items['removed']:,} removed, "
        f"{items['kept']:,} kept")  # fmt: skip
    if diff["codebook"]["same_vocabulary"]:
        churn = ", ".join(f"{name.replace('_', ' ')} {share:.1%}" for name, share in diff["churn"].items())
        say(f"    same codebook {diff['codebook']['before']}; changed codes: {churn}")
    else:
        shape = " -> ".join(" x ".join(map(str, sizes[side])) for side in ("before", "after"))
        agreement = diff["first_code_agreement"]
        told = "" if agreement is None else f"; {agreement:.1%} of pairs with one first code stay together"
        say(f"    new codebook {shape}: every SID changes{told}")
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
