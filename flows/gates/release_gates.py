"""Gates of a release: what a candidate must hold to be published. Each compares one figure with the recipe's limit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from storage.releases.manifest import Manifest


@dataclass(frozen=True)
class Candidate:
    """The input of gates: the metrics of a candidate, its number of items, and the release that it extends."""

    metrics: dict[str, Any]
    items: int
    parent: Manifest | None


Figure = tuple[float, str]
"""A value, and what it says."""


@dataclass(frozen=True)
class ReleaseGate:
    """A gate. `measure` gives the figure, or None where the gate does not apply; `limit` and `severity` are defaults.

    The value must be at most the limit, or at least with `at_least`.
    """

    measure: Callable[[Candidate], Figure | None]
    limit: float
    severity: Literal["block", "warn"]
    at_least: bool = False


def _worst_level(found: Candidate) -> Figure:
    values = found.metrics["utilisation_of_fillable"]
    worst = min(range(len(values)), key=values.__getitem__)
    return values[worst], f"codes in use as a share of those that the items could fill, level {worst + 1}"


def _shrinkage(found: Candidate) -> Figure:
    before = found.parent.items if found.parent is not None else 0
    lost = max(0.0, 1 - found.items / before) if before else 0.0
    return lost, "share of the parent's items that are gone"


def _churn(found: Candidate) -> Figure | None:
    return (found.metrics["churn"], "share of SIDs that the refit changed") if "churn" in found.metrics else None


COLLISION_RATE = ReleaseGate(
    lambda found: (found.metrics["collision_rate"], "share of items whose SID is not unique"), 0.0, "block"
)
UTILISATION = ReleaseGate(_worst_level, 0.25, "block", at_least=True)
RELATIVE_ERROR = ReleaseGate(
    lambda found: (found.metrics["relative_error"], "squared error divided by squared distance to the mean"),
    1.0,
    "block",
)
SHRINKAGE = ReleaseGate(_shrinkage, 0.1, "block")
EVENTS_WITHOUT_SID = ReleaseGate(
    lambda found: (found.metrics["events_without_sid"], "share of new events whose item has no SID"), 0.5, "block"
)
DRIFTED_ITEMS = ReleaseGate(
    lambda found: (
        found.metrics["drifted"] / max(1, found.items),
        "share of items that changed since their SID was assigned",
    ),
    0.2,
    "warn",
)
CAPACITY_USED = ReleaseGate(
    lambda found: (found.metrics["capacity_used"], "share of the planned SIDs that are taken"), 0.9, "warn"
)
CHURN = ReleaseGate(_churn, 0.05, "block")
