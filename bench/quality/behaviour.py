"""Behaviour vectors fitted on some of the items beside those fitted on all: `python -m bench behaviour DATA`.

The log, the pairs and the hit-rates are those of `bench representations`, seed 0, without items that have no behaviour.
Items outside a fit are folded in. "Outside" are pairs of which an item is outside the fit. Beside their hit-rate stands
that of the fit on all items, for the same pairs.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from bench.quality.catalogues import CATALOGUES, Catalogue
from bench.quality.representations import LOG, NEAR, TABLES, SeededSplit
from learning.threads import one_thread
from pipelines.collaborative.sppmi import fit_rows
from pipelines.fusion.fuse import placed
from pipelines.modalities import Modality

SHARES = (1.0, 0.5, 0.25, 0.1)
HEAD = ("items of the fit", "events", *(f"all @{near}" for near in NEAR), "pairs outside")
HEAD += tuple(f"outside @{near}{of}" for near in NEAR for of in ("", ", fit on all"))


def run(options: argparse.Namespace) -> None:
    """Print a table for each catalogue that exists."""
    for name in options.only or TABLES:
        read = CATALOGUES[name](options.data)
        table(read.before_the_test() if options.on == "validation" else read, options.on)


def table(catalogue: Catalogue, judged: str) -> None:
    """Print a row for each share of the items."""
    world = SeededSplit(catalogue, 0)
    rows = world.rows(world.log)
    pairs = world.pairs[np.isin(world.pairs, rows).all(axis=1)]
    print(
        f"\n### {catalogue.name}: {len(world.log.names):,} items with behaviour, {len(pairs):,} pairs of the {judged}\n"
    )
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    whole: NDArray[np.float64] | None = None
    for share in SHARES:
        inside, vectors = fitted(world, round(share * len(world.log.names)))
        ranks = world.ranks(vectors, pairs)
        whole = ranks if whole is None else whole
        outside = ~inside[pairs].all(axis=1)
        cells = [f"{share:.0%}: {inside.sum():,}", f"{inside[rows[world.log.item]].mean():.0%}"]
        cells += [f"{(ranks < near).mean():.4f}" for near in NEAR]
        cells += [f"{outside.sum():,}"]
        for near in NEAR:
            cells += [f"{(each[outside] < near).mean():.4f}" if outside.any() else "-" for each in (ranks, whole)]
        print("| " + " | ".join(cells) + " |", flush=True)


def fitted(world: SeededSplit, items: int) -> tuple[NDArray[np.bool_], Modality]:
    """Return which items of the catalogue are in a fit on the most frequent, and the vectors of all."""
    with one_thread():
        made = fit_rows(world.log, LOG.model_copy(update={"fit_items": items}))
    assert made is not None
    factors, rows = made
    inside = np.isin(world.catalogue.ids, factors.names)
    return inside, placed(world.items, factors.fold(world.log, rows))
