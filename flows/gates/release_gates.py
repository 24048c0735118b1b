"""Gates of a release: what a candidate must hold to be published. Each compares one figure with the recipe's limit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import hypot
from typing import Any, Literal

from storage.releases.manifest import Manifest


@dataclass(frozen=True)
class Candidate:
    """The input of gates: the metrics of a candidate, its number of items, and the release that it extends.

    `production` is the release in production when it was made, `sizes` are the codes per level. Metrics have values of
    different kinds, and releases of earlier versions lack some.
    """

    metrics: Mapping[str, Any]
    items: int
    parent: Manifest | None
    production: Manifest | None = None
    sizes: tuple[int, ...] = ()


Figure = tuple[float, str]
"""A value, and its explanation."""


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
    return found.metrics["removed_items"] / before if before else 0.0, "share of the parent's items that are gone"


def _events_without_sid(found: Candidate) -> Figure | None:
    if found.metrics["new_events"] < MIN_EVENTS:
        return None
    return found.metrics["events_without_sid"], "share of new events whose item has no SID"


def _churn(found: Candidate) -> Figure | None:
    return (found.metrics["churn"], "share of SIDs that the refit changed") if "churn" in found.metrics else None


MIN_NEW, MIN_FITTED, MIN_PAIRS, MIN_EVENTS = 20, 1_000, 500, 20
"""Below these numbers of new items, items of the parent, pairs of items and new events, a share says little."""
MIN_LIFT = 1.5
"""Below this lift, codes followed behaviour so little that there was nothing to keep."""


def _outlying(found: Candidate) -> Figure | None:
    share = found.metrics.get("new_items_beyond_p99")
    few = found.parent is None or found.parent.items < MIN_FITTED or found.metrics.get("new_items", 0) < MIN_NEW
    if few or share is None:
        return None
    return share, "share of new items that lie farther from all codes than 99% of those that the codebook was fitted on"


@dataclass(frozen=True)
class _Lift:
    """How much more often items that users take together share their first code than random items do.

    `error` is the standard error, over users.
    """

    value: float
    error: float

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> "_Lift | None":
        """Return None where pairs are few, and for a release that was made before errors were kept."""
        together, random = metrics.get("consumed_together_sharing"), metrics.get("random_pairs_sharing")
        error = metrics.get("consumed_together_error")
        if not together or not random or not random[0] or error is None:
            return None
        enough = metrics["consumed_together_pairs"] >= MIN_PAIRS
        return cls(together[0] / random[0], error / random[0]) if enough else None


def _behaviour_kept(found: Candidate) -> Figure | None:
    """Return the upper end of the 95 % interval: few users, or users without a taste, block no release by chance."""
    reference = found.parent or found.production
    now, before = _Lift.of(found.metrics), _Lift.of(reference.metrics) if reference is not None else None
    if now is None or before is None or before.value - 2 * before.error < MIN_LIFT:
        return None
    kept = (now.value - 1) / (before.value - 1)
    error = hypot(now.error, kept * before.error) / (before.value - 1)
    says = "how much more often items taken together share their first code than random items, as a share of before"
    return kept + 2 * error, f"{says}, at most (95%)"


def _neighbours_kept(found: Candidate) -> Figure | None:
    reference = found.parent or found.production
    if reference is None or found.sizes[:1] != reference.codebook.sizes[:1]:
        return None
    chance = 1 / found.sizes[0]
    now, before = found.metrics.get("neighbours_sharing"), reference.metrics.get("neighbours_sharing")
    if not now or not before or before[0] < MIN_LIFT * chance or found.items < MIN_FITTED:
        return None
    says = "how much more often near neighbours share their first code than chance has it, as a share of before"
    return (now[0] - chance) / (before[0] - chance), says


def _new_items_distance(found: Candidate) -> Figure | None:
    if found.metrics.get("new_items", 0) < MIN_NEW or found.metrics.get("new_items_distance") is None:
        return None
    return found.metrics["new_items_distance"], "mean distance of new items to their codes, relative to that of the fit"


def _mean_drift(found: Candidate) -> Figure | None:
    drift = found.metrics.get("mean_drift")
    if found.metrics.get("new_items", 0) < MIN_NEW or drift is None:
        return None
    return drift, "distance of the mean of new items to that of the fit, relative to how far fitted items lie from it"


def _log_age(found: Candidate) -> Figure | None:
    age = found.metrics.get("log_age_days")
    return None if age is None else (age, "days between the newest event and the as-of time")


def _log_coverage(found: Candidate) -> Figure | None:
    share = found.metrics.get("log_coverage")
    return None if share is None else (share, "share of the events before the cutoff whose item has a SID")


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
EVENTS_WITHOUT_SID = ReleaseGate(_events_without_sid, 0.5, "block")
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
OUTLYING_ITEMS = ReleaseGate(_outlying, 0.75, "block")
BEHAVIOUR_KEPT = ReleaseGate(_behaviour_kept, 0.5, "block", at_least=True)
NEIGHBOURS_KEPT = ReleaseGate(_neighbours_kept, 0.5, "block", at_least=True)
NEW_ITEMS_DISTANCE = ReleaseGate(_new_items_distance, 3.0, "warn")
LOG_AGE_DAYS = ReleaseGate(_log_age, 36_500.0, "warn")
MEAN_DRIFT = ReleaseGate(_mean_drift, 0.5, "warn")
LOG_COVERAGE = ReleaseGate(_log_coverage, 0.5, "warn", at_least=True)
