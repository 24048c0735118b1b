"""How good an encoding is: the figures of a release's record, from arrays alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tokenizer.codebook import Codebook
from tokenizer.metrics import collision_metrics, decode, level_metrics, prefix_agreement

NEIGHBOURS, SAMPLE = 10, 2_000


def encoding_quality(codebook: Codebook, vectors: Mapping[str, Any], codes: np.ndarray[Any, Any]) -> dict[str, float]:
    """Sums over the items just assigned: squared error, and squared distance to the mean of the fit.

    Their ratio is the relative error; sums of several nights add up.
    """
    placed = codes[:, 0] >= 0
    error = spread = 0.0
    for source in codebook.sources:
        rows = np.asarray(vectors[source], dtype=np.float64)[placed]
        error += float(((rows - decode(codebook, codes[placed], source)) ** 2).sum())
        spread += float(((rows - codebook.arrays[f"mean.{source}"]) ** 2).sum())
    return {"squared_error": error, "squared_spread": spread, "items": float(placed.sum())}


def table_quality(codes: np.ndarray[Any, Any], sizes: tuple[int, ...]) -> dict[str, Any]:
    """Per-level use of the codes and collisions of a whole SID table."""
    levels = level_metrics(codes, sizes)
    by_name = {name: [level[name] for level in levels] for name in levels[0]}
    filled = [
        used * size / min(size, max(1, len(codes))) for used, size in zip(by_name["utilisation"], sizes, strict=True)
    ]
    return {**by_name, "utilisation_of_fillable": filled, **collision_metrics(codes)}


def neighbourhood(vectors: np.ndarray[Any, Any], codes: np.ndarray[Any, Any], seed: int) -> dict[str, float]:
    """Share of an item's nearest neighbours that share its first code, and its first two; on a sample."""
    if len(codes) <= NEIGHBOURS:
        return {}
    agreement = prefix_agreement(vectors, codes, NEIGHBOURS, SAMPLE, seed)
    return {f"neighbours_sharing_{length + 1}": float(share) for length, share in enumerate(agreement)}
