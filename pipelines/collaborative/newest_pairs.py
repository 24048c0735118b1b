"""Input of a fusion: items co-consumed in the newest events of a log, and the vectors of behaviour before these."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.collaborative.log_fit import LogFit
from pipelines.event_log.visible_log import EventArrays, both_ways
from pipelines.modalities import ModalityRows
from pipelines.spec import FusionSpec
from tokenizer.arrays.types import Ints

MAX_PAIRS = 1 << 20
"""Most pairs, one way, that are kept; a training of default length draws 614,400, both ways."""


@dataclass(frozen=True)
class NewestPairs:
    """Pairs (P, 2) of rows of `items`, both ways, and the vectors before their events, aligned with `items`.

    `one_in` is 1 for all pairs of the newest events; else the pairs are a sample, and `items` are those of the sample.
    """

    items: pa.Array
    pairs: Ints
    before: ModalityRows
    one_in: int = 1

    @classmethod
    def of(cls, fit: LogFit, spec: FusionSpec) -> "NewestPairs":
        """Return the pairs of the newest events of the log of a fit."""
        since = fit.log.newest_since(spec.recent)
        pairs, one_in = sampled_pairs(fit.log.parts(), spec.pair_window, since)
        rows = np.arange(len(fit.log.items)) if one_in == 1 else np.unique(pairs)
        before = fit.before(since, rows)
        return cls(fit.log.items.take(pa.array(rows)), both_ways(np.searchsorted(rows, pairs)), before, one_in)


def sampled_pairs(parts: Iterable[EventArrays], window: int, since: int) -> tuple[Ints, int]:
    """Return the pairs of the events since a time, one way; of more than MAX_PAIRS, one in 2, 4, ..., in their order.

    The second value says one in how many.
    """
    kept, size, seen, one_in = [np.empty((0, 2), np.int64)], 0, 0, 1
    for part in parts:
        pairs = part.pairs_since(window, since)
        kept.append(pairs[-seen % one_in :: one_in])
        seen, size = seen + len(pairs), size + len(kept[-1])
        while size > MAX_PAIRS:
            kept = [np.concatenate(kept)[::2]]
            size, one_in = len(kept[0]), 2 * one_in
    return np.concatenate(kept), one_in
