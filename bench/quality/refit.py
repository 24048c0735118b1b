"""Gain and churn of a refit, beside its peers: `python -m bench refit DATA`.

DATA is the folder of data sets that docs/tokenizers.md names. A plain 3 x 256 codebook is fitted on the title vectors
of Amazon Beauty without one item in twenty, by hash of the ids; those get their SIDs after the others. Then the
codebook is updated in several ways. The output is Markdown.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from bench.quality.catalogues import beauty
from bench.quality.quantizers import THREE, row
from learning.threads import one_thread
from tokenizer.arrays.executor import LOCAL_THREADS
from tokenizer.arrays.items import checked_items, tie_keys
from tokenizer.arrays.types import Codes, Floats
from tokenizer.arrays.vectors import Items, spans
from tokenizer.assign import Occupancy, assign_sids
from tokenizer.balancing.costs import CentroidLevel, Residual
from tokenizer.codebook import Codebook
from tokenizer.fit import fit_codebook
from tokenizer.quantizers.rq_kmeans import residual
from tokenizer.quantizers.target_vectors import TargetVectors
from tokenizer.refit import refit_codebook
from tokenizer.spec import CodebookSpec, RefitSpec

# Share of SIDs that a refit may change.
BUDGET = RefitSpec(budget=0.05)
HEAD = (
    "SIDs changed",
    "first codes changed",
    "relative error",
    "nearest codes changed",
    "relative error of nearest codes",
)


def match_codes(old_KD: Floats, new_KD: Floats) -> NDArray[np.int64]:
    """Return the new point for the number of each old one, int64 (K,): the matching of least squared distance."""
    cost = np.square(old_KD[:, None].astype(np.float64) - new_KD[None]).sum(axis=2)
    return np.asarray(linear_sum_assignment(cost)[1], np.int64)


def aligned(new: Codebook, old: Codebook) -> Codebook:
    """Renumber the codes of a residual k-means codebook, level by level, like those of another of the same shape."""
    arrays = dict(new.arrays)
    for level in range(new.levels):
        order = match_codes(old.arrays[f"level{level}"], new.arrays[f"level{level}"])
        arrays[f"level{level}"] = np.ascontiguousarray(new.arrays[f"level{level}"][order])
    return replace(new, arrays=arrays)


def nearest(book: Codebook, items: Items, iterations: int = 0) -> tuple[Codebook, Codes]:
    """Return the nearest codes (N, L) level by level, after `iterations` of Lloyd's algorithm from the current codes.

    A code may hold any number of items, and items may share SIDs.
    """
    arrays, codes = dict(book.arrays), np.empty((len(items), book.levels), np.int32)
    for level in range(book.levels):
        prefix = codes[:, :level]
        for done in range(iterations + 1):
            target = residual(book.spec, arrays, level)
            costs = CentroidLevel(target, arrays[f"level{level}"])
            for start, stop in spans(len(items)):
                for rows, cost in costs.costs(items.read(start, stop, prefix[start:stop])):
                    codes[start:stop, level][rows] = cost.argmin(axis=1)
            if done < iterations:
                vectors = TargetVectors(target, items, prefix, LOCAL_THREADS)
                arrays[f"level{level}"], _ = vectors.means(codes[:, level], arrays[f"level{level}"])
    return replace(book, arrays=arrays), codes


def relative_error(book: Codebook, items: Items, codes: Codes) -> float:
    """Return the squared error of the codes over the squared distance to the mean of the items."""
    last = book.levels - 1
    target = residual(book.spec, book.arrays, last)
    vectors = TargetVectors(target, items, codes[:, :last], LOCAL_THREADS)
    left = vectors.distortion(book.arrays[f"level{last}"], codes[:, last])
    return left / TargetVectors.without_codes(Residual("fused", ()), items, LOCAL_THREADS).moments()[1]


def frontier(vectors: Floats, ids: list[str], seed: int) -> Iterator[str]:
    """Yield the rows of the table for vectors (N, D). Changes are counted among items that already had a SID.

    A row has changes and errors of SIDs, and those of the nearest codes, which items may share.
    """
    in_turn = np.argsort(tie_keys(ids), kind="stable")
    new, known = in_turn[: len(ids) // 20], in_turn[len(ids) // 20 :]
    items = checked_items({"fused": vectors}, ids, ["fused"], LOCAL_THREADS)
    spec = CodebookSpec.model_validate({"levels": THREE, "balanced": False, "seed": seed})
    book = fit_codebook({"fused": vectors[known]}, [ids[at] for at in known], spec)
    codes, nearest_before = np.full((len(ids), 3), -1, np.int32), nearest(book, items)[1]
    codes[known] = _unique(book, vectors[known], [ids[at] for at in known])
    kept = codes.copy()
    kept[new] = assign_sids(book, {"fused": vectors[new]}, [ids[at] for at in new], Occupancy(codes[known])).codes

    def sid_row(how: str, refitted: Codebook, sids: Codes, nearest_after: Codes) -> str:
        changed, nearest_changed = sids[known] != codes[known], nearest_after[known] != nearest_before[known]
        shares = [changed.any(axis=1).mean(), changed[:, 0].mean(), nearest_changed.any(axis=1).mean()]
        errors = [relative_error(refitted, items, sids), relative_error(refitted, items, nearest_after)]
        figures = [f"{shares[0]:.2%}", f"{shares[1]:.2%}", f"{errors[0]:.4f}", f"{shares[2]:.2%}", f"{errors[1]:.4f}"]
        return row(how, figures)

    yield sid_row("no refit", book, kept, nearest_before)
    made = refit_codebook(book, {"fused": vectors}, ids, codes, BUDGET)
    for step, point in enumerate(made.frontier[1:-1]):
        shares = f"{point['churn']:.2%}", f"{point['first_code_churn']:.2%}"
        yield row(f"refit, step {step}", [*shares, f"{point['relative_error']:.4f}", "", ""])
    yield sid_row(f"refit, step {len(made.frontier) - 2}", made.codebook, made.codes, nearest(made.codebook, items)[1])
    for iterations in (1, 5):
        warm, nearest_after = nearest(book, items, iterations)
        yield sid_row(f"warm start, iterations: {iterations}", warm, _unique(warm, vectors, ids), nearest_after)
    cold = aligned(fit_codebook({"fused": vectors}, ids, spec), book)
    yield sid_row("fitted anew, codes matched", cold, _unique(cold, vectors, ids), nearest(cold, items)[1])


def _unique(book: Codebook, vectors: Floats, ids: list[str]) -> Codes:
    return assign_sids(book, {"fused": vectors}, ids, Occupancy.empty(book.levels)).codes


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    catalogue = beauty(options.data)
    print("\n".join([row("", HEAD), "|---" * (len(HEAD) + 1) + "|"]), flush=True)
    with one_thread():
        for line in frontier(catalogue.text_vectors(), catalogue.ids, options.seed):
            print(line, flush=True)
