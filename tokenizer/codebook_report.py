"""Statistics of a fresh codebook beyond its levels: its quality, and the cost of other slacks."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.executor import Executor
from tokenizer.arrays.vectors import Items
from tokenizer.balancing.assign_level import Prices, assign_level
from tokenizer.codebook import Codebook
from tokenizer.metrics import collision_metrics, encoding_errors, first_code_costs, prefix_agreement
from tokenizer.registry import quantizer_of

SAMPLE = 8192
"""Items that the figures are measured on."""
NEIGHBOURS, QUERIES = 10, 2_000
"""Neighbours of an item that are compared, and items of the sample whose neighbours are found."""
SLACKS = (math.inf, 2.0, 1.5, 1.25, 1.1, 1.0)
"""From loose to tight, because each search starts from the prices of the one before."""


def quality(codebook: Codebook, items: Items, codes_NL: NDArray[np.int32], work: Executor) -> dict[str, Any]:
    """Return figures of the codes (-1: none) of the fitted items, for the codebook's statistics.

    Over all items: how many share their codes with others (see `metrics.collision_metrics`). Over the first SAMPLE by
    tie key: the decoding loss, as `squared_error` per item and `relative_error` (to the squared distance to the mean),
    and `neighbours_sharing`, per level the share of an item's NEIGHBOURS nearest in the sample with the same codes up
    to it.
    """
    placed = items.order[codes_NL[items.order, -1] >= 0]
    rows = placed[:SAMPLE]
    seen, codes = items.subset(rows), codes_NL[rows]
    errors = encoding_errors(codebook, seen, codes, work)
    vectors = np.concatenate([seen.rows[source].read(0, len(seen)) for source in codebook.sources], axis=1)
    return {
        **vars(collision_metrics(codes_NL[placed])),
        "squared_error": errors.squared / max(1, errors.items),
        "relative_error": errors.relative,
        "neighbours_sharing": prefix_agreement(vectors, codes, NEIGHBOURS, QUERIES, codebook.spec.seed),
    }


def slack_report(codebook: Codebook, items: Items, work: Executor) -> dict[str, Any]:
    """Return figures of a sample of the fitted items, the first by tie key, for the codebook's statistics.

    `slack_sweep`: a row per slack (None: no capacity) with the relative error and, per level, the load of the fullest
    code relative to an even share. `first_code_cost`: mean and 99th percentile, see `metrics.distribution_shift`.
    """
    seen = items.subset(items.order[:SAMPLE])
    cost = first_code_costs(codebook, seen)
    return {
        "slack_sweep": slack_sweep(codebook, seen, work),
        "first_code_cost": {"mean": float(cost.mean(dtype=np.float64)), "p99": float(np.quantile(cost, 0.99))},
    }


def slack_sweep(codebook: Codebook, items: Items, work: Executor) -> list[dict[str, Any]]:
    """Return relative error and fullest codes when the items are assigned under each of SLACKS, centroids unchanged."""
    prices: list[Prices | None] = [None] * codebook.levels
    sweep: list[dict[str, Any]] = []
    for slack in SLACKS:
        codes = np.empty((len(items), 0), np.int32)
        load = []
        for number, spec in enumerate(codebook.spec.levels):
            even = len(items) / spec.codes
            room = np.full(spec.codes, math.ceil(min(len(items), slack * even)), np.int64)
            level = quantizer_of(codebook.spec).level(codebook, number)
            found = assign_level(level, items, codes, room, work, price_K=prices[number])
            prices[number] = found.prices
            codes = np.column_stack([codes, found.codes])
            load.append(float(np.bincount(found.codes).max() / even))
        error = encoding_errors(codebook, items, codes, work).relative
        sweep.append({"slack": None if slack == math.inf else slack, "relative_error": error, "max_load": load})
    return sweep[::-1]
