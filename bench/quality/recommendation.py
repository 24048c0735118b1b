"""Next-item recommendation, leave-last-out: `python -m bench recommendation DATA --dataset NAME`, as Markdown.

The last item of a user is the test, the one before it the validation; the rest is training. Early stopping uses the
validation. At test a row gets all items of a user but the last, and ranks all items of the catalogue; none are sampled.
The first table also ranks items that the user has seen; the second leaves them out.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from bench.quality.catalogues import CATALOGUES
from bench.quality.generative import CACHE, dense, generator, key_of, reranked
from bench.quality.settings import GENERATORS, HEADLINE, changed
from bench.quality.split import WIDTH, Recommend, Split, say, split_of
from tokenizer.arrays.types import Ints
from training.evaluation.baselines import ItemNeighbours, popular_rows
from training.evaluation.metrics import mrr, ndcg_at, rank_of_target, recall_at, recall_interval
from training.sasrec.sasrec import SasRec, fit_sasrec, rank
from training.spec import SasRecSpec

# Cut-offs of the metrics, and epochs without improvement that end a training.
CUTS, PATIENCE = (5, 10, 20), 5
NONE = np.zeros(0, np.int64)


def popularity(split: Split) -> Recommend:
    """Recommend the items with most training events."""
    counts = np.bincount(np.concatenate(split.train), minlength=split.items)

    def recommend(histories: Sequence[Ints], exclude_seen: bool) -> Ints:
        return popular_rows(counts, WIDTH, [rows if exclude_seen else NONE for rows in histories])

    return recommend


def item_knn(split: Split) -> Recommend:
    """Recommend by item-based nearest neighbours."""
    neighbours = ItemNeighbours.of(split.train, split.items)

    def recommend(histories: Sequence[Ints], exclude_seen: bool) -> Ints:
        return neighbours.rank(histories, WIDTH, histories if exclude_seen else None)

    return recommend


def sasrec(split: Split, seed: int = 0) -> Recommend:
    """Recommend by SASRec at the epoch with the best validation ndcg@10; cached."""
    spec = SasRecSpec(seed=seed)
    path = CACHE / f"sasrec-{key_of(split, [*split.train, split.validation], spec)}.pt"
    if not path.exists():
        best = best_sasrec(split, spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(best, path)
    model = SasRec(spec, split.items).eval()
    model.load_state_dict(torch.load(path))

    def recommend(histories: Sequence[Ints], exclude_seen: bool) -> Ints:
        return rank(model, histories, WIDTH, histories if exclude_seen else None)

    return recommend


def best_sasrec(split: Split, spec: SasRecSpec) -> dict[str, torch.Tensor]:
    """Return the weights of the best epoch; training ends after PATIENCE epochs without a better one."""
    began = time.perf_counter()
    best: dict[str, torch.Tensor] = {}
    found: list[float] = []

    def judge(model: SasRec, row: dict[str, float]) -> bool:
        ranks = rank_of_target(rank(model, split.train, WIDTH), split.validation)
        found.append(ndcg_at(ranks, 10))
        if found[-1] == max(found):
            best.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        say(
            f"sasrec epoch {row['epoch'] + 1:.0f}: loss {row['loss']:.4f}, validation recall@10 "
            f"{recall_at(ranks, 10):.4f}, ndcg@10 {found[-1]:.4f}, {time.perf_counter() - began:.0f} s"
        )
        return len(found) - int(np.argmax(found)) > PATIENCE

    fit_sasrec(split.train, split.items, spec, judge)
    return best


ROWS: dict[str, Callable[[Split], Recommend]] = {
    "popularity": popularity,
    "item-knn": item_knn,
    "sasrec": sasrec,
    "sasrec-1": partial(sasrec, seed=1),
    "sasrec-2": partial(sasrec, seed=2),
    "dense": partial(dense, settings=HEADLINE),
    "reranked": partial(reranked, settings=HEADLINE),
    "reranked-1": partial(reranked, settings=GENERATORS["seed-1"]),
    "reranked-2": partial(reranked, settings=GENERATORS["seed-2"]),
    "reranked-rqvae": partial(reranked, settings=GENERATORS["rqvae"]),
    "reranked-rqvae-1": partial(reranked, settings=GENERATORS["rqvae-1"]),
    "reranked-rqvae-2": partial(reranked, settings=GENERATORS["rqvae-2"]),
    **{name: partial(generator, settings=settings) for name, settings in GENERATORS.items()},
}
WANTED = ("popularity", "item-knn", "sasrec", "dense", "generator", "reranked")
HEAD = (
    "",
    *(f"recall@{k}" for k in CUTS),
    "95 % interval of recall@10",
    *(f"ndcg@{k}" for k in CUTS),
    f"MRR@{WIDTH}",
)


def run(options: argparse.Namespace) -> None:
    """Print two tables: all items ranked, and without items that the user has seen."""
    for given, known in (([options.dataset], CATALOGUES), (options.rows, ROWS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ValueError(f"--rows {' '.join(unknown)}: there is no such row; choose from {', '.join(known)}")
    split = split_of(CATALOGUES[options.dataset](options.data))
    given, targets = split.asked(options.on)
    again = sum(row in rows for rows, row in zip(given, targets.tolist(), strict=True))
    print(f"\n### {options.dataset}: {split.items:,} items, {len(targets):,} users, leave-last-out, {options.on}\n")
    print(f"{again:,} of the {options.on} items were taken by their user before.\n", flush=True)
    tables: dict[bool, list[str]] = {False: [], True: []}
    for name, row in _wanted(options).items():
        began = time.perf_counter()
        recommend = row(split)
        fitted = time.perf_counter()
        for exclude_seen, lines in tables.items():
            ranks = rank_of_target(recommend(given, exclude_seen), targets)
            lines.append(f"| {name} | " + " | ".join(figures(ranks)) + " |")
        say(f"{name}: fit {fitted - began:.1f} s, rank {time.perf_counter() - fitted:.1f} s")
    for exclude_seen, lines in tables.items():
        what = "Items that the user has seen left out" if exclude_seen else "All items ranked"
        print(f"\n{what}:\n\n| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|\n" + "\n".join(lines))


def _wanted(options: argparse.Namespace) -> dict[str, Callable[[Split], Recommend]]:
    """Return the requested rows; for each change to try, also a changed copy of each row that has settings."""
    rows = {name: ROWS[name] for name in options.rows or WANTED}
    tried = {
        f"{name} with {changes}": partial(row.func, settings=changed(row.keywords["settings"], changes))
        for changes in options.tried
        for name, row in rows.items()
        if isinstance(row, partial) and "settings" in row.keywords
    }
    return rows | tried


def figures(ranks: Ints) -> list[str]:
    """Return the row of HEAD without its name."""
    low, high = recall_interval(ranks, 10)
    recalls, gains = ([format(metric(ranks, k), ".4f") for k in CUTS] for metric in (recall_at, ndcg_at))
    return [*recalls, f"{low:.4f} to {high:.4f}", *gains, format(mrr(ranks), ".4f")]
