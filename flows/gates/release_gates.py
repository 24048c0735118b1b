"""Gates: conditions for the publication of a candidate. Each compares one metric with the recipe's limit."""

import math
from typing import Any

from flows.recipe import GateSpec, GatesSpec
from storage.releases.manifest import Gate, Manifest


def judge(metrics: dict[str, Any], items: int, parent: Manifest | None, gates: GatesSpec) -> tuple[Gate, ...]:
    """Return all gates of a candidate, in the order of display. A metric that is not finite fails its gate."""
    level = _worst_level(metrics["utilisation_of_fillable"])
    churn = metrics.get("churn")
    shrinkage = max(0.0, 1 - items / parent.items) if parent is not None and parent.items else 0.0
    return (
        _at_most("collision_rate", metrics["collision_rate"], gates.collision_rate, "items that share a SID"),
        _at_least(
            "utilisation", level[1], gates.utilisation, f"codes in use of those items could fill, level {level[0]}"
        ),
        _at_most(
            "relative_error",
            metrics["relative_error"],
            gates.relative_error,
            "squared error over squared distance to the mean",
        ),
        _at_most("shrinkage", shrinkage, gates.shrinkage, "share of the parent's items that are gone"),
        _at_most("events_without_sid", metrics["events_without_sid"], gates.events_without_sid, "of the new events"),
        _at_most("drifted_items", metrics["drifted"] / max(1, items), gates.drifted_items, "changed since assigned"),
        _at_most("capacity_used", metrics["capacity_used"], gates.capacity_used, "SIDs taken of those planned"),
        *([] if churn is None else [_at_most("churn", churn, gates.churn, "SIDs that the refit changed")]),
    )


def _worst_level(values: list[float]) -> tuple[int, float]:
    worst = min(range(len(values)), key=values.__getitem__)
    return worst + 1, values[worst]


def _at_most(name: str, value: float, spec: GateSpec, detail: str) -> Gate:
    return _gate(name, value, spec, value <= spec.limit, f"{detail}, at most")


def _at_least(name: str, value: float, spec: GateSpec, detail: str) -> Gate:
    return _gate(name, value, spec, value >= spec.limit, f"{detail}, at least")


def _gate(name: str, value: float, spec: GateSpec, holds: bool, detail: str) -> Gate:
    finite = math.isfinite(value)
    return Gate(
        name=name,
        severity=spec.severity,
        value=value if finite else -1.0,
        limit=spec.limit,
        passed=finite and holds,
        detail=detail if finite else f"{detail}; the value is not a number",
    )
