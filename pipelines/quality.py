"""How good an encoding is: the figures of a release's record, from arrays alone."""

from typing import Any

import numpy as np

from tokenizer.metrics import collision_metrics, level_metrics, prefix_agreement

NEIGHBOURS, SAMPLE = 10, 2_000


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
