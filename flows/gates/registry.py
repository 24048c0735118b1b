"""The gates of releases: `ReleaseGate`s by their names in a recipe.

Built-in gates judge every candidate. A gate of an installed package judges where the recipe's section [gates] names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugins.registry import Registry

if TYPE_CHECKING:
    from flows.gates.release_gates import ReleaseGate

FIRST_GATES = (
    "collision_rate",
    "utilisation",
    "relative_error",
    "shrinkage",
    "events_without_sid",
    "drifted_items",
    "capacity_used",
    "churn",
)
"""Gates that every stored recipe has, also with their defaults. See `flows.gates.spec` for those that came later."""

GATES: Registry[ReleaseGate] = Registry(
    "sidmill.gates",
    "gate",
    {
        name: f"flows.gates.release_gates:{name.upper()}"
        for name in (
            *FIRST_GATES,
            "outlying_items",
            "behaviour_kept",
            "neighbours_kept",
            "new_items_distance",
            "log_age_days",
            "mean_drift",
            "log_coverage",
        )
    },
)
