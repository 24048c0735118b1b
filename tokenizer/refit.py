"""Refit of a codebook to a changed catalogue within a budget of changed SIDs (churn).

A plain warm start runs Lloyd's iterations from the old centroids and accepts the resulting churn. Here the churn is
spent on the greatest gains. First the centroids of all levels move under fixed codes, at no churn: coordinate descent
on the least-squares problem that fixed codes leave. Then the items that gain most get new codes, a part of the budget
at a time, and the centroids follow. Every step is a point on the frontier of churn against distortion.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from learning.threads import one_thread
from tokenizer.arrays.executor import LOCAL_THREADS, Executor
from tokenizer.arrays.items import ItemIds, checked_items, id_array
from tokenizer.arrays.types import Array, Codes
from tokenizer.arrays.vectors import LEAD, Block, Items, Rows, spans
from tokenizer.assign import Occupancy, assign_sids
from tokenizer.balancing.costs import Residual
from tokenizer.code_usage import level_metrics
from tokenizer.codebook import Codebook, plan
from tokenizer.codebook_report import quality, slack_report
from tokenizer.errors import VectorError
from tokenizer.metrics import encoding_errors
from tokenizer.quantizers.rq_kmeans import residual
from tokenizer.quantizers.target_vectors import TargetVectors
from tokenizer.registry import quantizer_of
from tokenizer.spec import RefitSpec

DEFAULT = RefitSpec()

SWEEPS = 3
"""Passes of coordinate descent after each step; a fourth lowered distortion by less than 0.01 %."""


@dataclass(frozen=True)
class Refit:
    """The refitted codebook, the codes int32 (N, L) of all items under it (-1: none found), and the frontier.

    `frontier` has a row for the start, for moved centroids, and for each step: `churn`, the share of changed SIDs,
    `first_code_churn`, the share of changed first codes, and `relative_error`.
    """

    codebook: Codebook
    codes: Codes
    frontier: list[dict[str, float]]


@dataclass(frozen=True)
class _Catalogue:
    """The current items, with their vectors as given and their ids; `work` computes over spans of them."""

    items: Items
    vectors: Mapping[str, Array | Rows]
    ids: pa.Array
    work: Executor

    def assigned(self, book: Codebook, rows: NDArray[np.int64], taken: Codes) -> Codes:
        """Return SIDs for some of the items that are not in `taken`."""
        if not len(rows):
            return np.empty((0, book.levels), np.int32)
        own = {
            source: np.asarray(given)[rows] if isinstance(given, np.ndarray) else given.take(rows)
            for source, given in self.vectors.items()
        }
        return assign_sids(
            book, own, self.ids.take(pa.array(rows)), Occupancy(taken[taken[:, 0] >= 0]), self.work
        ).codes


def refit_codebook(
    old: Codebook,
    vectors: Mapping[str, Array | Rows],
    item_ids: ItemIds,
    codes_NL: Codes,
    spec: RefitSpec = DEFAULT,
    work: Executor = LOCAL_THREADS,
) -> Refit:
    """Refit a residual k-means codebook to its current items, changing at most a share of the old SIDs.

    `codes_NL` are the current SIDs, -1 for items without one, which get one here. Capacity is planned again for the
    current number of items. Raises ValueError for another kind of codebook.
    """
    plain = not old.spec.normalise and all(each.input != "vector" for each in old.spec.levels)
    if not (plain and quantizer_of(old.spec).refits):
        raise ValueError("only plain rq-kmeans can be refitted under a churn budget; fit a new codebook instead")
    if not old.spec.collision_policy.relocates:
        raise ValueError(
            f"a codebook with collision = {old.spec.collision!r} cannot be refitted; fit a new codebook instead"
        )
    with one_thread():
        items = checked_items(vectors, item_ids, old.sources, work)
        if codes_NL.shape != (len(items), old.levels):
            raise VectorError(
                f"codes have shape {codes_NL.shape}; pass {old.levels} codes for each of the {len(items)} items"
            )
        return _refit(old, _Catalogue(items, vectors, id_array(item_ids), work), codes_NL, spec)


def _refit(old: Codebook, catalogue: _Catalogue, codes_NL: Codes, spec: RefitSpec) -> Refit:
    items, work = catalogue.items, catalogue.work
    capacity, planned = plan(old.spec, len(items))
    book = replace(old, capacity=capacity, planned_items=planned, fitted_items=len(items))
    known = codes_NL[:, 0] >= 0
    codes = codes_NL.astype(np.int32)
    newcomers = np.flatnonzero(~known)
    codes[newcomers] = catalogue.assigned(book, newcomers, codes[known])
    frontier = [_point(book, items, codes, codes_NL, known, work)]
    book = _follow(book, items, codes, work)
    frontier.append(_point(book, items, codes, codes_NL, known, work))
    allowed = int(spec.budget * np.count_nonzero(known))
    for step in range(1, spec.steps + 1):
        moved = known & (codes != codes_NL).any(axis=1)
        gain = _gains(book, items, codes, work)
        gain[~known | moved] = 0
        spend = allowed * step // spec.steps - int(np.count_nonzero(moved))
        chosen = items.order[np.argsort(-gain[items.order], kind="stable")[: max(0, spend)]]
        chosen = np.sort(chosen[gain[chosen] > 0])
        free_to_go = np.sort(np.concatenate([chosen, np.flatnonzero(~known | moved)]))
        codes = _moved(book, catalogue, codes, free_to_go)
        book = _follow(book, items, codes, work)
        frontier.append(_point(book, items, codes, codes_NL, known, work))
    record = {
        "items": len(items),
        "levels": _levels(book, items, codes, work),
        **quality(book, items, codes, work),
        **slack_report(book, items, work),
        "frontier": frontier,
    }
    return Refit(replace(book, statistics=record), codes, frontier)


def _levels(book: Codebook, items: Items, codes: Codes, work: Executor) -> list[dict[str, float]]:
    """Return figures of each level as in a fit: code usage, and relative error of its source (on the first LEAD)."""
    placed = items.order[codes[items.order, 0] >= 0]
    levels = []
    seen, known = items.subset(placed[:LEAD]), codes[placed[:LEAD]]
    uses = level_metrics(codes[placed], book.sizes)
    for number, (use, spec) in enumerate(zip(uses, book.spec.levels, strict=True)):
        vectors = TargetVectors(residual(book.spec, book.arrays, number), seen, known[:, :number], work)
        left = vectors.distortion(book.arrays[f"level{number}"], known[:, number])
        spread = TargetVectors.without_codes(Residual(spec.source, ()), seen, work).moments()[1]
        levels.append({**vars(use), "relative_error": left / spread if spread > 0 else float(left > 0)})
    return levels


def _point(
    book: Codebook, items: Items, codes: Codes, codes_NL: Codes, known: NDArray[np.bool_], work: Executor
) -> dict[str, float]:
    changed = codes[known] != codes_NL[known]
    return {
        "churn": float(changed.any(axis=1).mean()) if len(changed) else 0.0,
        "first_code_churn": float(changed[:, 0].mean()) if len(changed) else 0.0,
        "relative_error": encoding_errors(book, items, codes, work).relative,
    }


def _moved(book: Codebook, catalogue: _Catalogue, codes: Codes, movers: NDArray[np.int64]) -> Codes:
    """Return the codes after `movers` took better ones. Old SIDs stay taken; items without a gain keep theirs."""
    found = catalogue.assigned(book, movers, codes)
    block = catalogue.items.take(movers, codes[movers])
    before = _lost(book, block, codes[movers])
    after = np.where(found[:, 0] >= 0, _lost(book, block, found), np.inf)
    better = after < before
    codes = codes.copy()
    codes[movers[better]] = found[better]
    return codes


def _lost(book: Codebook, block: Block, codes: Codes) -> NDArray[np.float64]:
    """Return the squared error of each item under some codes, summed over sources; infinite without codes."""
    lost = np.zeros(len(block))
    for source in book.sources:
        gap = block.vectors[source] - quantizer_of(book.spec).decode(book, codes, source)
        lost += np.einsum("nd,nd->n", gap, gap, dtype=np.float64)
    lost[codes[:, 0] < 0] = np.inf
    return lost


def _gains(book: Codebook, items: Items, codes: Codes, work: Executor) -> NDArray[np.float64]:
    """Return each item's gain from the codes that are nearest level by level."""
    tasks = ((start, stop, codes[start:stop]) for start, stop in spans(len(items)))
    return np.concatenate(list(work.map(partial(_span_gains, book), items, tasks)))


def _span_gains(book: Codebook, items: Items, start: int, stop: int, codes: Codes) -> NDArray[np.float64]:
    block = items.read(start, stop, codes)
    nearest = np.empty_like(codes)
    for level in range(book.levels):
        seen = Block(block.vectors, block.ties, nearest[:, :level])
        for rows, cost in quantizer_of(book.spec).level(book, level).costs(seen):
            nearest[rows, level] = cost.argmin(axis=1)
    lost = _lost(book, block, codes)
    return np.where(np.isfinite(lost), lost - _lost(book, block, nearest), 0)


def _follow(book: Codebook, items: Items, codes: Codes, work: Executor) -> Codebook:
    """Fit centroids to fixed codes: in SWEEPS passes, each level becomes the mean residual of all other levels."""
    arrays = dict(book.arrays)
    for _ in range(SWEEPS):
        for level, spec in enumerate(book.spec.levels):
            others = tuple(
                (other, arrays[f"level{other}"])
                for other, named in enumerate(book.spec.levels)
                if other != level and named.source == spec.source
            )
            vectors = TargetVectors(Residual(spec.source, others), items, codes, work)
            arrays[f"level{level}"], _ = vectors.means(codes[:, level], arrays[f"level{level}"])
    return replace(book, arrays=arrays)
