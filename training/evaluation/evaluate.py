"""Evaluation of a generator, compared with simple recommenders on the same cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from storage.releases.evaluation import Accuracy, BucketAccuracy, Comparison, EvaluationResult, RankerResult
from tokenizer.arrays.types import Doubles, Ints
from tokenizer.trie.masks import TrieMasks
from training.data.events import gathered
from training.data.histories import contexts, window_rows
from training.decoding.beam_search import SamplingOptions, Scores, items_of, search_sids
from training.evaluation.baselines import ItemNeighbours, popular_rows
from training.evaluation.cases import EvaluationCases
from training.evaluation.comparison import versus
from training.evaluation.exposure import Exposure, self_information
from training.evaluation.metrics import (
    Bucket,
    headline_cut,
    hits_at,
    intervals,
    mrr,
    ndcg_at,
    prefix_numbers,
    prefix_ranks,
    quantile_buckets,
    rank_of_target,
    recall_at,
)
from training.evaluation.rerank import VectorSimilarity
from training.models.trie_tensors import TrieTensors
from training.sasrec.sasrec import fit_sasrec
from training.sasrec.sasrec import rank as rank_next
from training.spec import EvaluateSpec, SasRecSpec

if TYPE_CHECKING:
    from tokenizer.trie.trie import Trie
    from training.models.generator import Generator

Rank = Callable[[Ints], tuple[Ints, Ints | None]]
"""Cases (b,) -> rows of the best items (b, W), and SID numbers (b, W) if it ranks SIDs; both -1 padded."""

NEAREST = 100
"""Neighbours of an item."""
BASELINES = ("popularity", "item-knn")
"""The recommenders that a model is compared with."""
AT_ONCE = 8192
"""Cases that a simple recommender ranks at a time."""
PRODUCTION_ROW = "production"
"""Row of the model in production."""


@dataclass(frozen=True)
class Contender:
    """A generator, and the cases as it reads them."""

    model: Generator
    cases: EvaluationCases


@dataclass(frozen=True)
class TrainEvents:
    """Events before the cutoff: their number by row of the trie, and the rows of each user's positive ones.

    `counts` is (N,). The rows `of_users` are oldest first; None if it is not known who took what.
    """

    counts: Ints
    of_users: Sequence[Ints] | None = None

    @classmethod
    def of(cls, users: Sequence[Ints], items: int) -> TrainEvents:
        """Return the events of users on a trie of so many items, counted."""
        return cls(np.bincount(np.concatenate([*users, np.zeros(0, np.int64)]), minlength=items), users)


def evaluate(
    evaluated: Contender,
    trie: Trie,
    before: TrainEvents,
    spec: EvaluateSpec,
    similarity: VectorSimilarity | None = None,
    rival: Contender | None = None,
) -> EvaluationResult:
    """Return figures of the generator, popularity, item neighbours and a SASRec, one row each, and the counts.

    With `similarity` there are two more rows: the generator's items in the order that includes similarity, and all
    items by similarity alone. With `rival` there is a row of the model in production; its cases are the same, in
    order.

    `against` has the generator's recall less that of each of BASELINES and of the rival, case by case
    (`training.evaluation.comparison`).

    A row has recall, NDCG and MRR with 95 % intervals, recall of the target's SID prefixes by length, the exposure of
    the catalogue (`training.evaluation.exposure`), and the accuracy figures by the number of training events of the
    target (none: cold) and by the number of known events of the user. A generator ranks SIDs: `raw` counts a hit if the
    target's SID is among the first k. In all other figures the items of a SID take one place each. Both are equal if no
    two items share a SID.

    If it is not known who took what `before`, neighbours and SASRec have no row. A target outside the release is a miss
    for all, is counted in `targets_missing` and is in no bucket of popularity. A target that the user took before is
    counted in `targets_seen`; it cannot be hit if such items are left out (`seen_left_out`). Raises ValueError if there
    are no cases.
    """
    cases, popularity_counts, trained_on = evaluated.cases, before.counts, before.of_users
    if not len(cases):
        raise ValueError(
            "there is nothing to evaluate: the split holds out no event; move the cutoff to an earlier time"
        )
    known = cases.target_rows >= 0
    lengths = np.diff(cases.offsets)
    judge = _Measurement(
        cases,
        prefix_numbers(trie.codes()),
        self_information(popularity_counts),
        spec.k,
        {
            "by_popularity": quantile_buckets(np.where(known, popularity_counts[cases.target_rows], -1)),
            "by_history": quantile_buckets(lengths),
        },
    )
    # Cases of similar length share a batch, so that short histories are not padded to the longest one.
    like = np.argsort(lengths, kind="stable")
    found: list[tuple[Ints, Scores]] = []
    rows = {
        "generator": judge.row("generator", _generated(evaluated, trie, spec, found), _parts(like, spec.batch_size))
    }
    if similarity is not None:
        rows["reranked"] = judge.row("reranked", _reranked(similarity, cases, found), _parts(like, spec.batch_size))
        rows["dense"] = judge.row("dense", _alike(similarity, cases, spec), _parts(like, AT_ONCE))
    if rival is not None:
        if not np.array_equal(rival.cases.target_rows, cases.target_rows):
            raise ValueError("the model in production reads other cases, so the two cannot be compared case by case")
        ranked = _generated(rival, trie, spec, [])
        rows[PRODUCTION_ROW] = judge.row(PRODUCTION_ROW, ranked, _parts(like, spec.batch_size))
    rows["popularity"] = judge.row("popularity", _popular(popularity_counts, cases, spec), _parts(like, AT_ONCE))
    if trained_on is not None:
        neighbours = ItemNeighbours.of(trained_on, len(trie), NEAREST)
        settings = {"nearest": NEAREST, "newest_events": neighbours.newest}
        rows["item-knn"] = judge.row("item-knn", _near(neighbours, cases, spec), _parts(like, AT_ONCE), settings)
        long_enough = [rows for rows in trained_on if len(rows) > 1]
        if spec.sasrec_epochs and long_enough:
            rows["sasrec"] = judge.row("sasrec", _next(long_enough, len(trie), cases, spec), _parts(like, AT_ONCE))
    owner = np.repeat(np.arange(len(cases)), np.diff(cases.taken_offsets))
    again = owner[known[owner] & (cases.taken_rows == cases.target_rows[owner])]
    return EvaluationResult(
        rows,
        judge.against("generator", (*BASELINES, PRODUCTION_ROW)),
        cases=len(cases),
        targets_missing=int((~known).sum()),
        targets_seen=len(np.unique(again)),
        seen_left_out=spec.exclude_seen,
    )


def _parts(order: Ints, size: int) -> Iterable[Ints]:
    return (order[start : start + size] for start in range(0, len(order), size))


def _hidden(cases: EvaluationCases, spec: EvaluateSpec, part: Ints) -> list[Ints] | None:
    """Return rows to exclude for each of these cases."""
    return cases.taken(part) if spec.exclude_seen else None


def _generated(evaluated: Contender, trie: Trie, spec: EvaluateSpec, keep: list[tuple[Ints, Scores]]) -> Rank:
    """Return a `Rank` by beam search; it appends the items and scores of each part to `keep`."""
    model, cases = evaluated.model, evaluated.cases
    device = next(model.parameters()).device
    searched = TrieTensors(TrieMasks.of(trie), device)
    pool, windows = contexts(cases.codes, cases.kinds, cases.offsets, model.spec)
    sampling = SamplingOptions(spec.temperature, spec.groups, spec.diversity)

    def rank(part: Ints) -> tuple[Ints, Ints]:
        rows, lengths = window_rows(pool, windows.take(part), model.spec.long_events)
        events = gathered(pool.codes, pool.kinds, rows, lengths).to(device)
        exclude = _hidden(cases, spec, part)
        nodes, scores = search_sids(model, searched, events, spec.beams, exclude, sampling)
        keep.append(items_of(searched, nodes, scores, spec.beams, exclude))
        return keep[-1][0], nodes

    return rank


def _reranked(similarity: VectorSimilarity, cases: EvaluationCases, found: list[tuple[Ints, Scores]]) -> Rank:
    """Return a `Rank` of the items found for the same parts, reordered with similarity."""
    parts = iter(found)

    def rank(part: Ints) -> tuple[Ints, None]:
        return similarity.reranked(*next(parts), cases.taken(part)), None

    return rank


def _alike(similarity: VectorSimilarity, cases: EvaluationCases, spec: EvaluateSpec) -> Rank:
    """Return a `Rank` by similarity alone."""

    def rank(part: Ints) -> tuple[Ints, None]:
        return similarity.nearest(cases.taken(part), spec.beams, _hidden(cases, spec, part)), None

    return rank


def _popular(counts: Ints, cases: EvaluationCases, spec: EvaluateSpec) -> Rank:
    def rank(part: Ints) -> tuple[Ints, None]:
        taken = cases.taken(part)
        return popular_rows(counts, spec.beams, taken if spec.exclude_seen else [rows[:0] for rows in taken]), None

    return rank


def _near(neighbours: ItemNeighbours, cases: EvaluationCases, spec: EvaluateSpec) -> Rank:
    def rank(part: Ints) -> tuple[Ints, None]:
        return neighbours.rank(cases.taken(part), spec.beams, _hidden(cases, spec, part)), None

    return rank


def _next(trained_on: Sequence[Ints], items: int, cases: EvaluationCases, spec: EvaluateSpec) -> Rank:
    """Return a `Rank` by a SASRec trained on users with two or more events; it ranks nothing for users with none."""
    model = fit_sasrec(trained_on, items, SasRecSpec(epochs=spec.sasrec_epochs))

    def rank(part: Ints) -> tuple[Ints, None]:
        taken = cases.taken(part)
        known = np.flatnonzero([len(rows) for rows in taken])
        found = np.full((len(part), spec.beams), -1, np.int64)
        some = [taken[at] for at in known]
        found[known] = rank_next(model, some, spec.beams, some if spec.exclude_seen else None)
        return found, None

    return rank


@dataclass(frozen=True)
class _Measurement:
    """Measurement of all recommenders: cases, prefixes (N, L) and bits (N,) of items, cut-offs and buckets."""

    cases: EvaluationCases
    numbers: Ints
    bits: Doubles
    cuts: tuple[int, ...]
    buckets: dict[str, list[Bucket]]
    ranks: dict[str, Ints] = field(default_factory=dict)

    def against(self, name: str, others: Sequence[str]) -> dict[str, Comparison]:
        """Compare one recommender with each of the others that was ranked, at the headline k."""
        k = headline_cut(self.cuts)
        return {other: versus(self.ranks[name], self.ranks[other], k) for other in others if other in self.ranks}

    def row(
        self, name: str, rank: Rank, parts: Iterable[Ints], settings: Mapping[str, int] = MappingProxyType({})
    ) -> RankerResult:
        """Return all figures of a recommender that ranks the cases part by part; stores the ranks only."""
        targets = self.cases.target_rows
        sids = np.where(targets >= 0, self.numbers[targets, -1], -1)
        # The parts hold each case once, so each place is filled.
        ranks, raw = np.empty_like(targets), np.empty_like(targets)
        prefixes = np.empty((len(targets), self.numbers.shape[1]), np.int64)
        exposure = Exposure(self.numbers, self.bits, self.cuts)
        ranks_sids = False
        for part in parts:
            ranked, found = rank(part)
            ranks[part] = rank_of_target(ranked, targets[part])
            prefixes[part] = prefix_ranks(ranked, targets[part], self.numbers)
            exposure.add(ranked)
            if found is not None:
                ranks_sids, raw[part] = True, rank_of_target(found, sids[part])
        self.ranks[name] = ranks
        return RankerResult(
            self._accuracy(ranks),
            {k: [recall_at(of, k) for of in prefixes.T] for k in self.cuts},
            exposure.figures(),
            self._accuracy(raw) if ranks_sids else None,
            {name: [self._bucket(each, ranks) for each in buckets] for name, buckets in self.buckets.items()},
            settings,
        )

    def _bucket(self, bucket: Bucket, ranks: Ints) -> BucketAccuracy:
        cases = int(bucket.cases.sum())
        return BucketAccuracy(bucket.low, bucket.high, cases, self._accuracy(ranks[bucket.cases]))

    def _accuracy(self, ranks: Ints) -> Accuracy:
        return Accuracy(
            mrr(ranks),
            {k: recall_at(ranks, k) for k in self.cuts},
            {k: ndcg_at(ranks, k) for k in self.cuts},
            {k: int(hits_at(ranks, k).sum()) for k in self.cuts},
            intervals(ranks, self.cuts),
        )
