"""Share of near neighbours that share codes, measured on a sample of a release of any size."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from pipelines.modalities import FUSED
from storage.lake import Lake
from tokenizer.arrays.items import tie_keys
from tokenizer.arrays.vectors import as_matrix
from tokenizer.codebook import Codebook
from tokenizer.codebook_report import NEIGHBOURS, QUERIES
from tokenizer.metrics import prefix_agreement
from tokenizer.trie.trie import Trie

RUNS, RUN_LENGTH = 8, 2_048
"""Number and length of runs of items with consecutive ids. The vectors of a fit are stored in order of id, so a run is
in one file or two.
"""
LANDMARKS = 1 << 16
"""Most ids that are sorted to find runs."""


@dataclass(frozen=True)
class Added:
    """Items that a nightly run gave SIDs, and the versions of the vectors table before and after it."""

    items: list[str]
    since: int
    version: int


def neighbours_sharing(
    lake: Lake, fusion: str, trie: Trie, codebook: Codebook, fitted: int, added: Added | None
) -> list[float]:
    """Return the share of an item's nearest neighbours with its first code, its first two, and so on for all levels.

    The NEIGHBOURS nearest of QUERIES items are taken from a sample, which holds all of up to RUNS * RUN_LENGTH items.
    With more items it holds runs of items whose vectors existed at the fit (version `fitted` of the table), each
    starting at an id chosen by hash, and up to RUN_LENGTH of the `added` items, read from the files that the night
    wrote. The result is empty for NEIGHBOURS items or fewer.
    """
    where = (ds.field("modality") == FUSED) & (ds.field("fingerprint") == fusion)
    runs = _in_runs(trie)
    columns = ["item_id", "vector"]
    if runs is None:
        batches = list(lake.batches("vectors", columns, where))
    else:
        batches = list(lake.batches("vectors", columns, where & runs, version=fitted))
        if added is not None:
            sampled = np.argsort(tie_keys(added.items), kind="stable")[:RUN_LENGTH]
            written = lake.read_added("vectors", added.since, added.version, [*columns, "modality", "fingerprint"])
            within = ds.field("item_id").isin(pa.array([added.items[row] for row in sampled], pa.string()))
            batches += written.filter(where & within).select(columns).to_batches()
    if not batches:
        return []
    found = pa.Table.from_batches(batches)
    rows, first = np.unique(trie.find_rows(found.column("item_id")), return_index=True)
    rows, first = rows[rows >= 0], first[rows >= 0]
    if len(rows) <= NEIGHBOURS:
        return []
    vectors = as_matrix(found.column("vector"))[first]
    codes = trie.codes_of(rows)[:, : codebook.levels]
    return prefix_agreement(vectors, codes, NEIGHBOURS, QUERIES, codebook.spec.seed)


def _in_runs(trie: Trie) -> ds.Expression | None:
    """Return a filter for the sampled ids, as ranges; None if all are sampled.

    The ends of the runs are counted on LANDMARKS ids, chosen by hash, so in a larger release a run has about RUN_LENGTH
    items.
    """
    if len(trie) <= RUNS * RUN_LENGTH:
        return None
    chosen = trie.item_ids.take(pa.array(trie.arrays["id_order"][:LANDMARKS]))
    starts = chosen.take(np.argsort(tie_keys(chosen), kind="stable")[:RUNS])
    ids = pl.Series(chosen, dtype=pl.String).sort()
    length = max(1, round(RUN_LENGTH * len(ids) / len(trie)))
    places = ids.search_sorted(pl.Series(starts, dtype=pl.String)).to_numpy()
    field, expression = ds.field("item_id"), ds.scalar(False)
    for place in places:
        first, last = ids[int(place)], ids[min(int(place) + length, len(ids)) - 1]
        expression = expression | ((field >= first) & (field <= last))
    return expression
