"""The record of an evaluation: what `training.evaluation` finds, the lake stores as JSON, and others read.

A record of an earlier version may lack what came later. Names that a later version adds to a result, or to the row of a
recommender, are kept, so both are written as they were read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

Verdict = Literal["beats", "not told apart", "is worse"]
Stored = Mapping[str, Any]
"""JSON values by name."""

BY_K = ("recall", "ndcg", "hits")
"""Figures of accuracy that there are for each k, stored as `recall@10`."""
INTERVAL, PREFIXES, RAW = "_interval", "prefix_recall", "raw"


@dataclass(frozen=True)
class Comparison:
    """The difference of recall at `k`, its 95 % interval, the cases that one side alone hits, and the verdict."""

    k: int
    difference: float
    interval: list[float]
    won: int
    lost: int
    verdict: Verdict

    @classmethod
    def of(cls, stored: Stored) -> Comparison:
        return cls(**{each.name: stored[each.name] for each in fields(cls)})


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on some cases: figures by k, and 95 % intervals by the name of a figure."""

    mrr: float
    recall: Mapping[int, float]
    ndcg: Mapping[int, float]
    hits: Mapping[int, int]
    intervals: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, stored: Stored) -> Accuracy:
        """Return the accuracy in a record that may have other figures too."""
        recall, ndcg, hits = (_by_k(stored, name) for name in BY_K)
        bounds = {name: each for name, each in stored.items() if name.endswith(INTERVAL) and _is_pair(each)}
        intervals = {name.removesuffix(INTERVAL): (low, high) for name, (low, high) in bounds.items()}
        return cls(stored["mrr"], recall, ndcg, hits, intervals)

    @property
    def cuts(self) -> list[int]:
        """Each k at which was measured, ascending."""
        return sorted(self.recall)

    def figures(self) -> dict[str, float]:
        """Return figures by name, such as `recall@10`, without intervals."""
        by_k = dict(zip(BY_K, (self.recall, self.ndcg, self.hits), strict=True))
        return {"mrr": self.mrr, **{f"{name}@{k}": value for name, each in by_k.items() for k, value in each.items()}}

    def as_record(self) -> dict[str, Any]:
        """Return the figures by name, such as `recall@10` and `recall@10_interval`."""
        return self.figures() | {f"{name}{INTERVAL}": list(bounds) for name, bounds in self.intervals.items()}


@dataclass(frozen=True)
class BucketAccuracy:
    """Accuracy on the `cases` whose value lies in [low, high]."""

    low: int
    high: int
    cases: int
    accuracy: Accuracy

    @classmethod
    def of(cls, stored: Stored) -> BucketAccuracy:
        return cls(stored["from"], stored["to"], stored["cases"], Accuracy.of(stored))

    def as_record(self) -> dict[str, Any]:
        """Return the figures with the bounds `from` and `to`."""
        return {"from": self.low, "to": self.high, "cases": self.cases, **self.accuracy.as_record()}


@dataclass(frozen=True)
class RankerResult:
    """Figures of one recommender.

    `prefix_recall` has, by k, a recall for each length of a prefix; `exposure` has figures by name, such as
    `coverage@10`. `raw` is the accuracy of the SIDs that a generator ranks, None for other recommenders. `settings` are
    those of the recommender.
    """

    accuracy: Accuracy
    prefix_recall: Mapping[int, list[float]] = field(default_factory=dict)
    exposure: Mapping[str, float | None] = field(default_factory=dict)
    raw: Accuracy | None = None
    buckets: Mapping[str, list[BucketAccuracy]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: Stored) -> RankerResult:
        """Return the figures of a record; what is of no known kind is taken for a setting."""
        accuracy, prefixes = Accuracy.of(stored), _by_k(stored, PREFIXES)
        known = {*accuracy.as_record(), *(f"{PREFIXES}@{k}" for k in prefixes), RAW}
        rest = {name: value for name, value in stored.items() if name not in known}
        buckets = {name: value for name, value in rest.items() if _are_buckets(value)}
        exposure = {name: value for name, value in rest.items() if "@" in name and name not in buckets}
        return cls(
            accuracy,
            prefixes,
            exposure,
            Accuracy.of(stored[RAW]) if RAW in stored else None,
            {name: [BucketAccuracy.of(each) for each in value] for name, value in buckets.items()},
            {name: value for name, value in rest.items() if name not in buckets and name not in exposure},
        )

    def as_record(self) -> dict[str, Any]:
        """Return all figures by name."""
        return {
            **self.accuracy.as_record(),
            **{f"{PREFIXES}@{k}": recalls for k, recalls in self.prefix_recall.items()},
            **self.exposure,
            **({RAW: self.raw.as_record()} if self.raw is not None else {}),
            **{name: [each.as_record() for each in buckets] for name, buckets in self.buckets.items()},
            **self.settings,
        }


@dataclass(frozen=True)
class EvaluationResult:
    """Figures of all recommenders on the same cases, the generator's comparisons with baselines, and counts.

    `protocol` says how the model was evaluated, `production_model` which model is the recommender "production". An
    evaluation of an earlier version may have nothing in `against`, and not say whether seen items were left out.
    """

    rankers: Mapping[str, RankerResult]
    against: Mapping[str, Comparison]
    cases: int
    targets_missing: int
    targets_seen: int
    seen_left_out: bool | None = None
    protocol: str | None = None
    production_model: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: Stored) -> EvaluationResult:
        """Return the result of a record."""
        rows = {name: RankerResult.of(row) for name, row in stored.items() if isinstance(row, dict) and "mrr" in row}
        against = {name: Comparison.of(found) for name, found in stored.get("against", {}).items()}
        known = {*rows, *(each.name for each in fields(cls))}
        return cls(
            rows,
            against,
            cases=stored["cases"],
            targets_missing=stored["targets_missing"],
            targets_seen=stored["targets_seen"],
            seen_left_out=stored.get("seen_left_out"),
            protocol=stored.get("protocol"),
            production_model=stored.get("production_model"),
            others={name: value for name, value in stored.items() if name not in known},
        )

    @classmethod
    def parse(cls, text: str) -> EvaluationResult:
        """Return the result that `as_json` wrote."""
        return cls.of(json.loads(text))

    @property
    def generator(self) -> RankerResult | None:
        """The figures of the model."""
        return self.rankers.get("generator")

    def worse_than(self) -> list[str]:
        """Return the baselines that the generator is worse than, beyond the interval of the difference."""
        return sorted(name for name, found in self.against.items() if found.verdict == "is worse")

    def as_record(self) -> dict[str, Any]:
        """Return the result as JSON values by name, sorted: a row for each recommender, counts, comparisons."""
        found: dict[str, Any] = json.loads(self.as_json())
        return found

    def as_json(self) -> str:
        """Return the record as the lake stores it, without what it does not have."""
        later = {
            "seen_left_out": self.seen_left_out,
            "protocol": self.protocol,
            "production_model": self.production_model,
        }
        record = {
            **{name: each.as_record() for name, each in self.rankers.items()},
            **({"against": {name: asdict(each) for name, each in self.against.items()}} if self.against else {}),
            "cases": self.cases,
            "targets_missing": self.targets_missing,
            "targets_seen": self.targets_seen,
            **{name: value for name, value in later.items() if value is not None},
            **self.others,
        }
        return json.dumps(record, sort_keys=True)


def _by_k(stored: Stored, name: str) -> dict[int, Any]:
    """Return the values of a figure by k."""
    cut = {key: key.removeprefix(f"{name}@") for key in stored if key.startswith(f"{name}@")}
    return {int(k): stored[key] for key, k in cut.items() if k.isdigit()}


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _are_buckets(value: Any) -> bool:
    """Return whether a value is a list of buckets: a later version may add lists of other things."""
    return isinstance(value, list) and all(
        isinstance(each, dict) and {"from", "to", "cases", "mrr"} <= each.keys() for each in value
    )
