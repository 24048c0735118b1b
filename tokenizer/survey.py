"""What the record of a fresh codebook says beyond its fit: what other slacks would cost, and how near items lie."""

import math
from typing import Any

import numpy as np

from tokenizer.assignment import Prices, assign_level
from tokenizer.codebook import Codebook
from tokenizer.families import quantizer_of
from tokenizer.metrics import encoding_errors, first_code_costs
from tokenizer.rows import Items
from tokenizer.work import Work

SAMPLE = 8192
SLACKS = (math.inf, 2.0, 1.5, 1.25, 1.1, 1.0)
"""From loose to tight, so that the prices of one are where the next begins."""


def survey(codebook: Codebook, items: Items, work: Work) -> dict[str, Any]:
    """Figures of a sample of the items it was fitted on, the first by tie key, for the codebook's statistics.

    `slack_sweep`: a row for each slack (None: no capacity) with the relative error and, per level, the load of the
    fullest code over an even share. `first_code_cost`: mean and 99th percentile, see `metrics.distribution_shift`.
    """
    seen = items.subset(items.order[:SAMPLE])
    cost = first_code_costs(codebook, seen)
    return {
        "slack_sweep": slack_sweep(codebook, seen, work),
        "first_code_cost": {"mean": float(cost.mean(dtype=np.float64)), "p99": float(np.quantile(cost, 0.99))},
    }


def slack_sweep(codebook: Codebook, items: Items, work: Work) -> list[dict[str, Any]]:
    """Relative error and fullest codes of the items, assigned under each of SLACKS with the centroids as they are."""
    prices: list[Prices | None] = [None] * codebook.levels
    sweep: list[dict[str, Any]] = []
    for slack in SLACKS:
        codes = np.empty((len(items), 0), np.int32)
        load = []
        for number, spec in enumerate(codebook.spec.levels):
            even = len(items) / spec.codes
            room = np.full(spec.codes, math.ceil(min(len(items), slack * even)), np.int64)
            level = quantizer_of(codebook.spec).level(codebook, number)
            found = assign_level(level, items, codes, room, None, work, prices[number])
            prices[number] = found.prices
            codes = np.column_stack([codes, found.codes])
            load.append(float(np.bincount(found.codes).max() / even))
        error = encoding_errors(codebook, items, codes, work).relative
        sweep.append({"slack": None if slack == math.inf else slack, "relative_error": error, "max_load": load})
    return sweep[::-1]
