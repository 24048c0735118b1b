"""How good a generator is, beside what simple recommenders would give on the same cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer.trie.masks import TrieMasks
from training.data.events import gathered, positive
from training.data.histories import Pool, Windows, window_rows
from training.decoding.beam_search import Scores, Variety, items_of, search_sids
from training.evaluation.baselines import ItemNeighbours, popular_rows
from training.evaluation.comparison import versus
from training.evaluation.exposure import Exposure, Floats, self_information
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
from training.evaluation.rerank import Likeness
from training.models.trie_tensors import TrieTensors
from training.sasrec.sasrec import fit_sasrec
from training.sasrec.sasrec import rank as rank_next
from training.spec import EvaluateSpec, GeneratorSpec, SasRecSpec

if TYPE_CHECKING:
    from tokenizer.trie.trie import Trie
    from training.models.generator import Generator

Ints = npt.NDArray[np.int64]
Rank = Callable[[Ints], tuple[Ints, Ints | None]]
"""Cases (b,) -> rows of the best items of each (b, W), and where it ranks SIDs their numbers; both -1 padded."""

NEAREST = 100
"""Neighbours of an item."""
BASELINES = ("popularity", "item-knn")
"""What a model has to hold its own against."""
AT_ONCE = 8192
"""Cases that a simple recommender is asked about at a time."""


@dataclass(frozen=True)
class EvaluationCases:
    """Held-out events with what came before them; ragged parts are flat, case i holds [offsets[i], offsets[i+1]).

    codes (E, L) and kinds (E,) (see training/data/events.py) of the context events that the model reads, oldest first,
    with `offsets` (n+1,); `taken_rows` (T,), the items into `trie.item_ids` of the positive context events, oldest
    first, with `taken_offsets` (n+1,); `target_rows` (n,). Row -1 stands for an item that is not in the release.
    """

    codes: npt.NDArray[np.int32]
    kinds: Ints
    offsets: Ints
    taken_rows: Ints
    taken_offsets: Ints
    target_rows: Ints

    def __len__(self) -> int:
        return len(self.target_rows)

    def taken(self, cases: Ints) -> list[Ints]:
        """What the user of each of these cases took; what was only shown is not among it."""
        return [self.taken_rows[self.taken_offsets[case] : self.taken_offsets[case + 1]] for case in cases]


def evaluate(
    model: Generator,
    trie: Trie,
    cases: EvaluationCases,
    popularity_counts: Ints,
    spec: EvaluateSpec,
    learnt: Sequence[Ints] | None = None,
    likeness: Likeness | None = None,
) -> dict[str, Any]:
    """What the generator, popularity, neighbours of items and a SASRec come to, a row each, and what was counted.

    With the `likeness` of the trie's rows what the generator found has a row in that order too, and all items by it
    alone another.

    `against` has the generator's recall less that of each of BASELINES, case by case
    (`training.evaluation.comparison`).

    A row has recall, NDCG and MRR with 95 % intervals, recall of prefixes of the target's SID by length, what its lists
    show of the catalogue (`training.evaluation.exposure`), and the same figures by how many training events the target
    has (none: cold) and by how many events are known of the user. A generator ranks SIDs: `raw` counts a hit where the
    target's is among the first k of them; elsewhere the items of a SID take as many places as they are. They are the
    same where no two items share one.

    `popularity_counts` (N,) are train events per trie row before the cutoff. `learnt` are the rows of the positive
    train events of each user, oldest first; without them neighbours and SASRec have no row. A target outside the
    release is a miss for all, is counted in `targets_missing` and is in no bucket of popularity; a target that the user
    took before cannot be hit while such items are left out (`seen_left_out`), and is counted in `targets_seen`. Raises
    ValueError without a case, for then there is nothing to say.
    """
    if not len(cases):
        raise ValueError("evaluation has 0 cases: the split holds out no event; move the cutoff to an earlier time")
    known = cases.target_rows >= 0
    lengths = np.diff(cases.offsets)
    judge = _Judge(
        cases,
        prefix_numbers(trie.codes()),
        self_information(popularity_counts),
        spec.k,
        {
            "by_popularity": quantile_buckets(np.where(known, popularity_counts[cases.target_rows], -1)),
            "by_history": quantile_buckets(lengths),
        },
    )
    # Cases of like length share a batch, so that short histories are not padded to the longest one.
    like = np.argsort(lengths, kind="stable")
    found: list[tuple[Ints, Scores]] = []
    rows = {
        "generator": judge.row("generator", _generated(model, trie, cases, spec, found), _parts(like, spec.batch_size))
    }
    if likeness is not None:
        rows["reranked"] = judge.row("reranked", _reranked(likeness, cases, found), _parts(like, spec.batch_size))
        rows["dense"] = judge.row("dense", _alike(likeness, cases, spec), _parts(like, AT_ONCE))
    rows["popularity"] = judge.row("popularity", _popular(popularity_counts, cases, spec), _parts(like, AT_ONCE))
    if learnt is not None:
        neighbours = ItemNeighbours.of(learnt, len(trie), NEAREST)
        row = judge.row("item-knn", _near(neighbours, cases, spec), _parts(like, AT_ONCE))
        rows["item-knn"] = {**row, "nearest": NEAREST, "newest_events": neighbours.newest}
        long_enough = [rows for rows in learnt if len(rows) > 1]
        if spec.sasrec_epochs and long_enough:
            rows["sasrec"] = judge.row("sasrec", _next(long_enough, len(trie), cases, spec), _parts(like, AT_ONCE))
    owner = np.repeat(np.arange(len(cases)), np.diff(cases.taken_offsets))
    again = owner[known[owner] & (cases.taken_rows == cases.target_rows[owner])]
    return {
        **rows,
        "against": judge.against("generator", BASELINES),
        "cases": len(cases),
        "targets_missing": int((~known).sum()),
        "targets_seen": len(np.unique(again)),
        "seen_left_out": spec.exclude_seen,
    }


def _parts(order: Ints, size: int) -> Iterable[Ints]:
    return (order[start : start + size] for start in range(0, len(order), size))


def _hidden(cases: EvaluationCases, spec: EvaluateSpec, part: Ints) -> list[Ints] | None:
    """What each of these cases is not to be shown."""
    return cases.taken(part) if spec.exclude_seen else None


def _generated(
    model: Generator, trie: Trie, cases: EvaluationCases, spec: EvaluateSpec, keep: list[tuple[Ints, Scores]]
) -> Rank:
    """Contexts keep their last events, as many as fit before a target in training. Puts the items and scores of each
    part into `keep`."""
    device = next(model.parameters()).device
    searched = TrieTensors(TrieMasks.of(trie), device)
    pool, windows = contexts(cases, model.spec)
    variety = Variety(spec.temperature, spec.groups, spec.diversity)

    def rank(part: Ints) -> tuple[Ints, Ints]:
        rows, lengths = window_rows(pool, windows.take(part), model.spec.long_events)
        events = gathered(pool.codes, pool.kinds, rows, lengths).to(device)
        exclude = _hidden(cases, spec, part)
        nodes, scores = search_sids(model, searched, events, spec.beams, exclude, variety)
        keep.append(items_of(searched, nodes, scores, spec.beams, exclude))
        return keep[-1][0], nodes

    return rank


def _reranked(likeness: Likeness, cases: EvaluationCases, found: list[tuple[Ints, Scores]]) -> Rank:
    """What was found of the same parts, in the order of likeness too."""
    parts = iter(found)

    def rank(part: Ints) -> tuple[Ints, None]:
        return likeness.reranked(*next(parts), cases.taken(part)), None

    return rank


def _alike(likeness: Likeness, cases: EvaluationCases, spec: EvaluateSpec) -> Rank:
    """All items by likeness alone."""

    def rank(part: Ints) -> tuple[Ints, None]:
        return likeness.nearest(cases.taken(part), spec.beams, _hidden(cases, spec, part)), None

    return rank


def contexts(cases: EvaluationCases, spec: GeneratorSpec) -> tuple[Pool, Windows]:
    """What a model reads of each case: its last events, as many as stand before a target in training."""
    events = pa.nulls(len(cases.codes), pa.string())
    pool = Pool(cases.codes, cases.kinds, positive(cases.kinds), events, cases.offsets)
    first, stop = cases.offsets[:-1], cases.offsets[1:]
    return pool, Windows(first, np.maximum(first, stop - (spec.max_events - 1)), stop, stop)


def _popular(counts: Ints, cases: EvaluationCases, spec: EvaluateSpec) -> Rank:
    def rank(part: Ints) -> tuple[Ints, None]:
        taken = cases.taken(part)
        return popular_rows(counts, spec.beams, taken if spec.exclude_seen else [rows[:0] for rows in taken]), None

    return rank


def _near(neighbours: ItemNeighbours, cases: EvaluationCases, spec: EvaluateSpec) -> Rank:
    def rank(part: Ints) -> tuple[Ints, None]:
        return neighbours.rank(cases.taken(part), spec.beams, _hidden(cases, spec, part)), None

    return rank


def _next(learnt: Sequence[Ints], items: int, cases: EvaluationCases, spec: EvaluateSpec) -> Rank:
    """A SASRec trained on users with two events and more; it has nothing for a case of which no event is known."""
    model = fit_sasrec(learnt, items, SasRecSpec(epochs=spec.sasrec_epochs))

    def rank(part: Ints) -> tuple[Ints, None]:
        taken = cases.taken(part)
        known = np.flatnonzero([len(rows) for rows in taken])
        found = np.full((len(part), spec.beams), -1, np.int64)
        some = [taken[at] for at in known]
        found[known] = rank_next(model, some, spec.beams, some if spec.exclude_seen else None)
        return found, None

    return rank


@dataclass(frozen=True)
class _Judge:
    """What every recommender is measured by: cases, prefixes (N, L) and bits (N,) of items, cut-offs, buckets."""

    cases: EvaluationCases
    numbers: Ints
    bits: Floats
    cuts: tuple[int, ...]
    buckets: dict[str, list[Bucket]]
    ranks: dict[str, Ints] = field(default_factory=dict)

    def against(self, name: str, others: Sequence[str]) -> dict[str, Any]:
        """One recommender against each of others that were asked, at the k that is told first."""
        k = headline_cut(self.cuts)
        return {other: versus(self.ranks[name], self.ranks[other], k) for other in others if other in self.ranks}

    def row(self, name: str, rank: Rank, parts: Iterable[Ints]) -> dict[str, Any]:
        """All figures of a recommender that is asked about the cases part by part; keeps ranks alone."""
        targets = self.cases.target_rows
        sids = np.where(targets >= 0, self.numbers[targets, -1], -1)
        ranks, raw = np.full(len(targets), -1, np.int64), np.full(len(targets), -1, np.int64)
        prefixes = np.full((len(targets), self.numbers.shape[1]), -1, np.int64)
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
        row = self._accuracy(ranks)
        for k in self.cuts:
            row[f"prefix_recall@{k}"] = [recall_at(of, k) for of in prefixes.T]
        row |= exposure.figures()
        if ranks_sids:
            row["raw"] = self._accuracy(raw)
        for name, buckets in self.buckets.items():
            row[name] = [
                {
                    "from": bucket.low,
                    "to": bucket.high,
                    "cases": int(bucket.cases.sum()),
                    **self._accuracy(ranks[bucket.cases]),
                }
                for bucket in buckets
            ]
        return row

    def _accuracy(self, ranks: Ints) -> dict[str, Any]:
        row: dict[str, Any] = {"mrr": mrr(ranks)}
        for k in self.cuts:
            row[f"recall@{k}"] = recall_at(ranks, k)
            row[f"ndcg@{k}"] = ndcg_at(ranks, k)
            row[f"hits@{k}"] = int(hits_at(ranks, k).sum())
        return row | {f"{name}_interval": list(bounds) for name, bounds in intervals(ranks, self.cuts).items()}
