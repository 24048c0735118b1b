"""All quantizers on real vectors, side by side: `sidmill bench quantizers DATA [NAME ...]`.

DATA is the folder of data sets that docs/tokenizers.md names. Vectors are MiniLM vectors of titles, kept in
.cache/vectors. Prints Markdown.
"""

import argparse
import time
from itertools import pairwise
from typing import Any

import numpy as np

from flows.bench.catalogues import CATALOGUES, Catalogue
from tokenizer.encode import Occupancy, Status, assign_sids
from tokenizer.fit import fit_codebook
from tokenizer.metrics import collision_metrics, level_metrics, pair_agreement, prefix_agreement
from tokenizer.spec import CodebookSpec

PAIRS, NEIGHBOURS, SAMPLE = 200_000, 10, 2_000

THREE = [{"codes": 256}] * 3
SPECS: dict[str, dict[str, Any]] = {
    "rq-kmeans, balanced 1.0": {"slack": 1.0},
    "rq-kmeans, balanced 1.25": {"slack": 1.25},
    "rq-kmeans, balanced 1.5": {},
    "rq-kmeans, balanced 2.0": {"slack": 2.0},
    "rq-kmeans, not balanced": {"balanced": False},
    "rq-kmeans, normalised": {"normalise": True},
    "rq-kmeans, not balanced, suffix": {"collision": "suffix", "balanced": False},
    "rq-kmeans, not balanced, keep": {"collision": "keep", "balanced": False},
    "rq-vae": {"quantizer": "rq-vae"},
    "rq-vae, refit": {"quantizer": "rq-vae", "vae": {"refit": True}},
    "fsq, refit": {"quantizer": "fsq", "vae": {"refit": True}},
    "rq-opq, 1 + 2 parts": {"quantizer": "rq-opq", "tail": 2},
    "opq, 3 parts (no order)": {"quantizer": "opq"},
    "hierarchical, 32 x 32 x 32": {"quantizer": "hierarchical", "levels": [{"codes": 32}] * 3},
    "lsh, 3 x 8 bits": {"quantizer": "lsh"},
    "random": {"quantizer": "random"},
}


def consumed_together(catalogue: Catalogue) -> np.ndarray[Any, Any]:
    """Pairs of rows that follow each other in a history, at most PAIRS drawn by seed."""
    pairs = [
        (one, other) for history in catalogue.histories for (_, one), (_, other) in pairwise(history) if one != other
    ]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:PAIRS]
    return np.array(pairs)[chosen]


def table(catalogue: Catalogue, only: list[str]) -> None:
    """A row for each quantizer wanted."""
    ids, found, pairs = catalogue.ids, catalogue.text_vectors(), consumed_together(catalogue)
    print(f"\n### {catalogue.name}: {len(ids):,} items, {len(pairs):,} pairs\n")
    print(
        "| quantizer | relative error | worst utilisation | entropy, bits a level | worst Gini | worst max load | "
        "moved or sharing | largest group | neighbours sharing 1, 2 codes | pairs sharing 1, 2 codes | fit, s | "
        "assign, s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for label, changed in SPECS.items():
        if only and not any(part in label for part in only):
            continue
        spec = CodebookSpec.model_validate({"levels": THREE, **changed})
        start = time.perf_counter()
        book = fit_codebook({"fused": found}, ids, spec)
        fitted = time.perf_counter()
        made = assign_sids(book, {"fused": found}, ids, Occupancy.empty(len(book.sizes)))
        assigned = time.perf_counter()
        codes = made.codes[:, : book.levels]
        shared = collision_metrics(made.codes)
        use = level_metrics(codes, book.sizes[: book.levels])
        near = prefix_agreement(found, codes, NEIGHBOURS, SAMPLE, 0)
        together = pair_agreement(codes, pairs)
        print(
            f"| {label} | {made.relative_error:.4f} | {min(level['utilisation'] for level in use):.3f} | "
            f"{' '.join(format(level['entropy'], '.2f') for level in use)} | "
            f"{max(level['gini'] for level in use):.2f} | {max(level['max_load'] for level in use):.0f} | "
            f"{(made.status == Status.RELOCATED).mean() + shared['collision_rate']:.1%} | {shared['largest_group']} | "
            f"{near[0]:.3f} {near[1]:.3f} | {together[0]:.3f} {together[1]:.3f} | "
            f"{fitted - start:.1f} | {assigned - fitted:.1f} |",
            flush=True,
        )


def run(options: argparse.Namespace) -> None:
    """Print a table per data set."""
    for name, read in CATALOGUES.items():
        if (options.data / name).is_dir():
            table(read(options.data), options.only)
        else:
            print(f"\n{options.data} has no folder {name}: left out")
