"""All quantizers on real vectors, side by side: `python -m bench quantizers DATA [NAME ...]`.

DATA is the folder of data sets that docs/tokenizers.md names. Vectors are MiniLM vectors of titles, cached in
.cache/vectors. The output is Markdown.
"""

import argparse
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bench.quality.catalogues import CATALOGUES, Catalogue
from bench.quality.split import say
from tokenizer.arrays.items import tie_keys
from tokenizer.arrays.types import Codes, Floats
from tokenizer.assign import Assignment, Occupancy, Status, assign_sids
from tokenizer.code_usage import level_metrics
from tokenizer.codebook import Codebook
from tokenizer.fit import fit_codebook
from tokenizer.metrics import collision_metrics, pair_agreement, prefix_agreement
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
    "rq-kmeans, not balanced, item": {"collision": "item", "balanced": False},
    "rq-kmeans, not balanced, keep": {"collision": "keep", "balanced": False},
    "rq-vae": {"quantizer": "rq-vae"},
    "rq-vae, refit": {"quantizer": "rq-vae", "vae": {"refit": True}},
    "rq-vae, rotation trick": {"quantizer": "rq-vae", "vae": {"gradient": "rotation"}},
    "rq-vae, Sinkhorn 0.05": {"quantizer": "rq-vae", "vae": {"sinkhorn": 0.05}},
    "rq-vae, contrastive (CoST)": {"quantizer": "rq-vae", "vae": {"contrastive": 0.1}},
    "rq-vae, diversity (LETTER)": {"quantizer": "rq-vae", "vae": {"diversity": 0.01}},
    "fsq, refit": {"quantizer": "fsq", "vae": {"refit": True}},
    "rq-opq, 1 + 2 parts": {"quantizer": "rq-opq", "tail": 2},
    "pq, 3 parts (no order)": {"quantizer": "pq"},
    "opq, 3 parts (no order)": {"quantizer": "opq"},
    "hierarchical, 32 x 32 x 32": {"quantizer": "hierarchical", "levels": [{"codes": 32}] * 3},
    "lsh, 3 x 8 bits": {"quantizer": "lsh"},
    "random": {"quantizer": "random"},
}


def consumed_together(catalogue: Catalogue) -> np.ndarray[Any, Any]:
    """Return pairs of rows that follow each other in a history, at most PAIRS of them, drawn by seed."""
    pairs = [
        (one, other) for history in catalogue.histories for (_, one), (_, other) in pairwise(history) if one != other
    ]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:PAIRS]
    return np.array(pairs)[chosen]


LEVEL = {
    "utilisation": ".3f",
    "dead_codes": "d",
    "entropy": ".2f",
    "perplexity": ".0f",
    "gini": ".2f",
    "max_load": "d",
}
LEVEL_HEAD = ("utilisation", "dead codes", "entropy, bits", "perplexity", "Gini", "max load")
WHOLE_HEAD = (
    "relative error",
    "squared error per item",
    "items that want the same SID as others",
    "moved",
    "unique SIDs",
    "largest group",
    "neighbours sharing 1, 2 codes",
    "pairs sharing 1, 2 codes",
    "new items: distance, beyond p99",
)


def table(catalogue: Catalogue, only: list[str]) -> None:
    """Print two tables with a row per wanted quantizer: figures of each level, and of the whole.

    A quantizer is fitted on all items but one in twenty, by hash of their ids; those get their SIDs after the others.
    """
    ids, found, pairs = np.array(catalogue.ids), catalogue.text_vectors(), consumed_together(catalogue)
    in_turn = np.argsort(tie_keys(ids.tolist()), kind="stable")
    new, old = in_turn[: len(ids) // 20], in_turn[len(ids) // 20 :]
    levels: list[str] = []
    wholes: list[str] = []
    for label, changed in SPECS.items():
        if only and not any(part in label for part in only):
            continue
        spec = CodebookSpec.model_validate({"levels": THREE, **changed})
        start = time.perf_counter()
        book = fit_codebook({"fused": found[old]}, ids[old].tolist(), spec)
        fitted = time.perf_counter()
        first = assign_sids(book, {"fused": found[old]}, ids[old].tolist(), Occupancy.empty(len(book.sizes)))
        then = assign_sids(
            book, {"fused": found[new]}, ids[new].tolist(), Occupancy(first.codes[first.codes[:, 0] >= 0])
        )
        say(f"{label}: fit {fitted - start:.1f} s, assign {time.perf_counter() - fitted:.1f} s")
        sids, raw = np.empty((2, len(ids), len(book.sizes)), np.int32)
        for rows, made in ((old, first), (new, then)):
            sids[rows], raw[rows] = made.codes, made.raw_codes
        use = level_metrics(sids[:, : book.levels], book.sizes[: book.levels])
        levels.append(
            row(label, [" ".join(format(getattr(level, name), kind) for level in use) for name, kind in LEVEL.items()])
        )
        wholes.append(row(label, whole_figures(book, found, sids, raw, pairs, (first, then))))
    print(f"\n### {catalogue.name}: {len(old):,} items, then {len(new):,} new ones; {len(pairs):,} pairs\n")
    for head, lines in ((LEVEL_HEAD, levels), (WHOLE_HEAD, wholes)):
        print("\n".join([row("", head), "|---" * (len(head) + 1) + "|", *lines]) + "\n", flush=True)


def whole_figures(
    book: Codebook, found: Floats, sids: Codes, raw: Codes, pairs: Any, made: tuple[Assignment, Assignment]
) -> list[str]:
    """Return the row of WHOLE_HEAD without its name."""
    squared, spread, items = (
        sum(getattr(part.errors, name) for part in made) for name in ("squared", "spread", "items")
    )
    shared = collision_metrics(sids)
    moved = sum(int((part.status == Status.RELOCATED).sum()) for part in made) / len(sids)
    codes = sids[:, : book.levels]
    near, together = prefix_agreement(found, codes, NEIGHBOURS, SAMPLE, 0), pair_agreement(codes, pairs)
    shift = made[1].shift
    return [
        f"{squared / spread:.4f}",
        f"{squared / items:.4f}",
        f"{collision_metrics(raw).collision_rate:.1%}",
        f"{moved:.1%}",
        f"{shared.unique_sids:,}",
        f"{shared.largest_group}",
        f"{near[0]:.3f} {near[1]:.3f}",
        f"{together[0]:.3f} {together[1]:.3f}",
        f"{shift.distance:.3f} {shift.beyond_p99:.3f}" if shift else "none",
    ]


def row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def run(options: argparse.Namespace) -> None:
    """Print a table per data set."""
    for name, read in CATALOGUES.items():
        if (options.data / name).is_dir():
            table(read(options.data), options.only)
        else:
            print(f"\n{options.data} has no folder {name}; its table is left out")
