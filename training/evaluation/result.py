"""The result of an evaluation, and the record that the lake stores of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.evaluation.comparison import Comparison


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on some cases: figures by k, and 95 % intervals by the name of a figure."""

    mrr: float
    recall: Mapping[int, float]
    ndcg: Mapping[int, float]
    hits: Mapping[int, int]
    intervals: Mapping[str, tuple[float, float]]

    def as_record(self) -> dict[str, Any]:
        """The figures by name, such as `recall@10` and `recall@10_interval`."""
        by_k = {"recall": self.recall, "ndcg": self.ndcg, "hits": self.hits}
        figures = {f"{name}@{k}": value for name, values in by_k.items() for k, value in values.items()}
        bounds = {f"{name}_interval": list(interval) for name, interval in self.intervals.items()}
        return {"mrr": self.mrr, **figures, **bounds}


@dataclass(frozen=True)
class BucketAccuracy:
    """Accuracy on the `cases` whose value lies in [low, high]."""

    low: int
    high: int
    cases: int
    accuracy: Accuracy

    def as_record(self) -> dict[str, Any]:
        """The figures with the bounds `from` and `to`."""
        return {"from": self.low, "to": self.high, "cases": self.cases, **self.accuracy.as_record()}


@dataclass(frozen=True)
class RankerResult:
    """Figures of one recommender.

    `prefix_recall` has, by k, a recall for each length of a prefix; `exposure` has figures by name. `raw` is the
    accuracy of the SIDs that a generator ranks, None for other recommenders. `settings` are those of the recommender.
    """

    accuracy: Accuracy
    prefix_recall: Mapping[int, list[float]]
    exposure: Mapping[str, float | None]
    raw: Accuracy | None
    buckets: Mapping[str, list[BucketAccuracy]]
    settings: Mapping[str, int]

    def as_record(self) -> dict[str, Any]:
        """All figures by name."""
        return {
            **self.accuracy.as_record(),
            **{f"prefix_recall@{k}": recalls for k, recalls in self.prefix_recall.items()},
            **self.exposure,
            **({"raw": self.raw.as_record()} if self.raw is not None else {}),
            **{name: [each.as_record() for each in buckets] for name, buckets in self.buckets.items()},
            **self.settings,
        }


@dataclass(frozen=True)
class EvaluationResult:
    """Figures of all recommenders on the same cases, the generator's comparisons with baselines, and counts."""

    rankers: Mapping[str, RankerResult]
    against: Mapping[str, Comparison]
    cases: int
    targets_missing: int
    targets_seen: int
    seen_left_out: bool

    def as_record(self) -> dict[str, Any]:
        """The result as JSON values, a row for each recommender under its name."""
        return {
            **{name: each.as_record() for name, each in self.rankers.items()},
            "against": {name: each.as_record() for name, each in self.against.items()},
            "cases": self.cases,
            "targets_missing": self.targets_missing,
            "targets_seen": self.targets_seen,
            "seen_left_out": self.seen_left_out,
        }
