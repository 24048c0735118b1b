"""Learned quantizers beside rq-kmeans on clustered data: `python -m bench learned`, about five minutes.

The data are two catalogues of 3,000 items with 64 dimensions, in 1,600 clusters of a 12-dimensional subspace; codes are
32 x 32 x 32. Errors are squared distances of decoded vectors relative to those to the mean; "free" is without capacity.
"""

import argparse
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenizer.assign import Occupancy, assign_sids
from tokenizer.fit import fit_codebook
from tokenizer.spec import CodebookSpec

SMALL: dict[str, Any] = {"hidden": (128, 64), "batch_size": 256, "epochs": 10, "steps": 100}
ROWS: dict[str, dict[str, Any]] = {
    "rq-kmeans": {"quantizer": "rq-kmeans"},
    "rq-vae": {"quantizer": "rq-vae", "vae": SMALL},
    "rq-vae, refit": {"quantizer": "rq-vae", "vae": {**SMALL, "refit": True}},
    "rq-vae, revive": {"quantizer": "rq-vae", "vae": {**SMALL, "between": "revive"}},
    "rq-vae, revive, refit": {"quantizer": "rq-vae", "vae": {**SMALL, "between": "revive", "refit": True}},
    "rq-vae, rotation": {"quantizer": "rq-vae", "vae": {**SMALL, "gradient": "rotation"}},
    "rq-vae, sinkhorn": {"quantizer": "rq-vae", "vae": {**SMALL, "sinkhorn": 0.05}},
    "fsq": {"quantizer": "fsq", "vae": SMALL},
    "fsq, refit": {"quantizer": "fsq", "vae": {**SMALL, "refit": True}},
}


def catalogue(seed: int, items: int = 3000, width: int = 64, rank: int = 12) -> NDArray[np.float32]:
    draw = np.random.default_rng(seed)
    mix = draw.normal(size=(rank, width)) / np.sqrt(rank)
    centre, part = draw.normal(size=(200, rank)), 0.5 * draw.normal(size=(1600, rank))
    place = draw.integers(1600, size=items)
    inner = centre[place // 8] + part[place] + 0.2 * draw.normal(size=(items, rank))
    return np.asarray(inner @ mix + 0.1 * draw.normal(size=(items, width)), np.float32)


def run(options: argparse.Namespace) -> None:
    """Print all rows."""
    print(f"{'':<24} {'error':>16} {'free':>16} {'seconds':>8}")
    for name, settings in ROWS.items():
        errors: dict[bool, list[float]] = {True: [], False: []}
        began = time.perf_counter()
        for seed in (0, 1):
            vectors = {"fused": catalogue(seed)}
            ids = [f"item-{row}" for row in range(len(vectors["fused"]))]
            for balanced in (True, False):
                spec = CodebookSpec.model_validate({"levels": [{"codes": 32}] * 3, "balanced": balanced, **settings})
                book = fit_codebook(vectors, ids, spec)
                errors[balanced].append(assign_sids(book, vectors, ids, Occupancy.empty(3)).relative_error)
        shown = (" ".join(f"{error:.4f}" for error in errors[balanced]) for balanced in (True, False))
        seconds = (time.perf_counter() - began) / 4
        print(f"{name:<24} {next(shown):>16} {next(shown):>16} {seconds:>8.1f}", flush=True)
