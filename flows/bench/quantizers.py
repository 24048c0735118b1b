"""All quantizers on real vectors, side by side: `sidmill bench quantizers DATA [NAME ...]`.

DATA is the folder of data sets that docs/tokenizers.md names. Vectors are MiniLM vectors of titles, kept in
.cache/vectors. Prints Markdown.
"""

import argparse
import csv
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from infra.settings import configure
from pipelines.encoders.text import TextEncoder
from pipelines.spec import TextSpec
from tokenizer.encode import Occupancy, Status, assign_sids
from tokenizer.fit import fit_codebook
from tokenizer.metrics import collision_metrics, level_metrics, pair_agreement, prefix_agreement
from tokenizer.spec import CodebookSpec

CACHE = Path(".cache/vectors")
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


def beauty(folder: Path) -> tuple[list[str], list[str], list[list[str]]]:
    """Item ids, titles, histories."""
    rows = [json.loads(line) for line in (folder / "amazon-beauty/items.jsonl").read_text().splitlines()]
    lines = (folder / "amazon-beauty/sequences.txt").read_text().splitlines()
    return [str(row["item_id"]) for row in rows], [row["title"] for row in rows], [line.split()[1:] for line in lines]


def movielens(folder: Path) -> tuple[list[str], list[str], list[list[str]]]:
    """Item ids, titles with genres, histories of ratings of 4 and more."""
    with (folder / "movielens-posters/items.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    histories: dict[str, list[tuple[int, str]]] = {}
    with (folder / "movielens-posters/ratings.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if float(row["rating"]) >= 4:
                histories.setdefault(row["userId"], []).append((int(row["timestamp"]), row["movieId"]))
    texts = [f"{row['title']} {row['genres'].replace('|', ', ')}" for row in rows]
    return [row["movieId"] for row in rows], texts, [[item for _, item in sorted(h)] for h in histories.values()]


def vectors(name: str, texts: list[str]) -> np.ndarray[Any, Any]:
    """MiniLM vectors, float32 (N, 384), of unit length; empty texts get the word "untitled"."""
    path = CACHE / f"{name}.npy"
    if not path.exists():
        configure()
        encoder = TextEncoder(TextSpec(encoder="packaged-minilm", fields=("title",)))
        order = np.argsort([len(text) for text in texts])
        found = np.empty((len(texts), 384), np.float32)
        for start in range(0, len(order), 256):
            rows = order[start : start + 256]
            found[rows] = encoder.encode([texts[row].strip() or "untitled" for row in rows])
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found)
    return np.asarray(np.load(path), np.float32)


def consumed_together(histories: list[list[str]], ids: list[str]) -> np.ndarray[Any, Any]:
    """Pairs of rows that follow each other in a history, at most PAIRS drawn by seed."""
    row = {item: number for number, item in enumerate(ids)}
    pairs = [
        (row[one], row[other])
        for history in histories
        for one, other in pairwise(history)
        if one in row and other in row and one != other
    ]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:PAIRS]
    return np.array(pairs)[chosen]


def table(name: str, ids: list[str], texts: list[str], histories: list[list[str]], only: list[str]) -> None:
    found, pairs = vectors(name, texts), consumed_together(histories, ids)
    print(f"\n### {name}: {len(ids):,} items, {len(pairs):,} pairs\n")
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
    for name, read in (("amazon-beauty", beauty), ("movielens-posters", movielens)):
        if (options.data / name).is_dir():
            table(name, *read(options.data), options.only)
        else:
            print(f"\n{options.data} has no folder {name}: left out")
