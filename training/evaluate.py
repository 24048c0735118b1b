"""How good a generator is, beside what recommending the most popular items would give on the same cases."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from tokenizer.trie_masks import TrieMasks
from training.decoding import beam_search
from training.floors import popular_rows
from training.metrics import (
    hits_at,
    mrr,
    ndcg_at,
    rank_of_target,
    recall_at,
    recall_interval,
)
from training.spec import EvaluateSpec
from training.trie_tensors import TrieTensors

if TYPE_CHECKING:
    from tokenizer.trie import Trie
    from training.generator import Generator

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EvaluationCases:
    """Held-out events with what came before them; ragged parts are flat, case i holds [offsets[i], offsets[i+1]).

    codes (E, L) and feedback (E,) (0 positive, 1 shown only) of context events, oldest first, with `offsets` (n+1,);
    `seen_rows` (S,) into `trie.item_ids` with `seen_offsets` (n+1,); `target_rows` (n,). Row -1 stands for an item that
    is not in the release.
    """

    codes: npt.NDArray[np.int32]
    feedback: npt.NDArray[np.int8]
    offsets: Ints
    seen_rows: Ints
    seen_offsets: Ints
    target_rows: Ints

    def __len__(self) -> int:
        return len(self.target_rows)

    def seen(self, start: int, stop: int) -> list[Ints]:
        """Seen rows of the cases [start, stop)."""
        bounds = self.seen_offsets[start : stop + 1]
        return [self.seen_rows[a:b] for a, b in pairwise(bounds)]


def evaluate(
    model: Generator, trie: Trie, cases: EvaluationCases, popularity_counts: Ints, spec: EvaluateSpec
) -> dict[str, Any]:
    """Recall, NDCG, MRR and recall's 95 % interval for the generator and for popularity, and what was counted.

    `popularity_counts` (N,) are train events per trie row before the cutoff. A target outside the release is a miss
    for both and is counted in `targets_missing`; a target that the user has seen cannot be hit while seen items are
    left out, and is counted in `targets_seen`. Raises ValueError without a case, for then there is nothing to say.
    """
    if not len(cases):
        raise ValueError("evaluation has 0 cases: the split holds out no event; move the cutoff to an earlier time")
    seen = cases.seen(0, len(cases))
    excluded = seen if spec.exclude_seen else [rows[:0] for rows in seen]
    rankings = {
        "generator": _generated(model, trie, cases, spec),
        "popularity": popular_rows(popularity_counts, spec.beams, excluded),
    }
    table = {name: _row(rank_of_target(rows, cases.target_rows), spec) for name, rows in rankings.items()}
    return {
        **table,
        "cases": len(cases),
        "targets_missing": int((cases.target_rows < 0).sum()),
        "targets_seen": sum(
            bool(row >= 0 and (rows == row).any()) for rows, row in zip(seen, cases.target_rows, strict=True)
        ),
    }


def _generated(model: Generator, trie: Trie, cases: EvaluationCases, spec: EvaluateSpec) -> Ints:
    """Ranked rows of every case; contexts keep their last events, as many as fit before a target in training."""
    device = next(model.parameters()).device
    searched = TrieTensors(TrieMasks.of(trie), device)
    stops = cases.offsets[1:]
    starts = np.maximum(cases.offsets[:-1], stops - (model.spec.max_events - 1))
    ranked = np.empty((len(cases), spec.beams), dtype=np.int64)
    # Cases of like length share a batch, so that short histories are not padded to the longest one.
    order = np.argsort(stops - starts, kind="stable")
    for begin in range(0, len(cases), spec.batch_size):
        part = order[begin : begin + spec.batch_size]
        tokens, feedback, _ = model.layout.sequences(cases.codes, cases.feedback, starts[part], stops[part])
        exclude = [cases.seen(case, case + 1)[0] for case in part] if spec.exclude_seen else None
        ranked[part], _ = beam_search(
            model,
            searched,
            torch.from_numpy(tokens).to(device),
            torch.from_numpy(feedback).to(device),
            spec.beams,
            exclude,
        )
    return ranked


def _row(ranks: Ints, spec: EvaluateSpec) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for k in spec.k:
        row[f"recall@{k}"] = recall_at(ranks, k)
        row[f"recall@{k}_interval"] = list(recall_interval(ranks, k))
        row[f"ndcg@{k}"] = ndcg_at(ranks, k)
        row[f"hits@{k}"] = int(hits_at(ranks, k).sum())
    row["mrr"] = mrr(ranks)
    return row
