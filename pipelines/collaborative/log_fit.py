"""The factorisation of a log of any size: fitted on its most frequent items, vectors of all items block by block.

Factors and vectors are those that `sppmi.fit_rows` and `Factors.fold` make of the same log in memory. Shapes: N items
of the log, F items of the fit, D dimensions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from pipelines.collaborative.pair_counts import PairCounts
from pipelines.collaborative.sppmi import Factors, factorised, most_seen, positive_pmi, vectors_of
from pipelines.event_log.behaviour_log import BehaviourLog
from pipelines.modalities import Matrix, ScratchModality
from pipelines.spec import CollaborativeSpec
from tokenizer.arrays.spool import Spool
from tokenizer.arrays.types import Bools, Ints


@dataclass(frozen=True)
class LogFit:
    """Factors, and the counts of the log that they were fitted on."""

    log: BehaviourLog
    counts: PairCounts
    factors: Factors

    @property
    def events_covered(self) -> float:
        """Share of the events that are of items of the fit."""
        return float(self.log.seen[self.counts.contexts].sum() / self.log.seen.sum())

    @property
    def pairs_covered(self) -> float:
        """Share of the pairs of events, by weight, whose second item is of the fit: what a vector is made of."""
        return float(self.factors.met.sum() / self.factors.total)

    def vectors(self) -> Iterator[pl.DataFrame]:
        """Yield (item_id, vector) of the items that have a vector, in order of their ids, block by block."""
        for rows, vectors in _projected(self.factors, self.counts):
            lively = np.flatnonzero(vectors.any(axis=1))
            yield vectors_of(pl.Series(self.log.items.take(lively + rows.start)), vectors[lively])

    def before(self, time: int, wanted: Ints) -> ScratchModality:
        """Return the vectors of the `wanted` items (ascending) on the same factors, from the events before a time."""
        asked = np.zeros(len(self.log.items), np.bool_)
        asked[wanted] = True
        earlier = (part.where(part.time < time) for part in self.log.parts())
        counts = PairCounts.of(earlier, len(asked), self.counts.contexts, self.factors.spec.window, asked)
        found = ScratchModality.absent(len(wanted), self.factors.directions.shape[1])
        for rows, vectors in _projected(self.factors, counts):
            low, high = np.searchsorted(wanted, [rows.start, rows.stop])
            made = vectors[wanted[low:high] - rows.start]
            with_vector = np.flatnonzero(made.any(axis=1))
            found.fill(low + with_vector, made[with_vector])
        return found


def fit_log(log: BehaviourLog, spec: CollaborativeSpec) -> LogFit | None:
    """Fit on a log; return None if no two of its most frequent items share users more often than by chance."""
    spec = spec.for_items(len(log.items))
    chosen = most_seen(log.seen, spec.fit_items)
    counts = PairCounts.of(log.parts(), len(log.items), chosen, spec.window)
    met, total = counts.met[chosen], float(counts.met.sum())
    directions = factorised(_fit_matrix(counts, spec.shift), spec)
    if directions is None:
        return None
    return LogFit(log, counts, Factors(spec, tuple(log.items.take(chosen).to_pylist()), directions, met, total))


def _fit_matrix(counts: PairCounts, shift: float) -> csr_matrix:
    """Return the positive PMI of the context items with each other (F, F); a large one lies on the scratch disk."""
    contexts, total = counts.contexts, float(counts.met.sum())
    met = counts.met[contexts]
    entries, columns, lengths = Spool(np.float64), Spool(np.int32), [np.zeros(1, np.int64)]
    for rows, near in counts.blocks(_among(contexts, len(counts.met))):
        low, high = np.searchsorted(contexts, [rows.start, rows.stop])
        part = positive_pmi(near[contexts[low:high] - rows.start], met[low:high], met, total, shift)
        entries.append(part.data)
        columns.append(part.indices)
        lengths.append(np.diff(part.indptr))
    starts = np.cumsum(np.concatenate(lengths))
    return csr_matrix((entries.whole(), columns.whole(), starts), (len(contexts), len(contexts)))


def _among(rows: Ints, items: int) -> Bools | None:
    """Return a mask of some of the items; None for all of them."""
    if len(rows) == items:
        return None
    mask = np.zeros(items, np.bool_)
    mask[rows] = True
    return mask


def _projected(factors: Factors, counts: PairCounts) -> Iterator[tuple[slice, Matrix]]:
    """Yield consecutive rows of items and their vectors, 0 for an item that has none."""
    for rows, near in counts.blocks():
        yield rows, factors.project(factors.information(near, counts.met[rows]))
