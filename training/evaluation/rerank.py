"""Ranking by similarity to a user's items: generated candidates reordered, and retrieval by vectors alone.

The full vectors restore details that SIDs lose. Generative retrieval followed by a dense score, as in LIGER (arXiv
2411.18814). The generator gives the candidates; the vectors are those that its SIDs were made of, so a new item has one
from its first night on.

Shape suffixes: B users, W candidates, N items, F dimensions of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenizer.arrays.distance import cheapest
from tokenizer.arrays.types import Floats, Ints

AT_ONCE = 1024
"""Users whose candidate vectors are gathered at once."""
CELLS = 1 << 24
"""User-item pairs that are compared at once."""


@dataclass(frozen=True)
class VectorSimilarity:
    """Cosines of items with the items a user took; each event further back has `decay` times the weight.

    `unit` (N, F) are item vectors of length 1, or 0 for an item without one. `weight` is the amount, in nats, that a
    cosine of 1 adds to a log-probability.
    """

    unit: Floats
    weight: float
    decay: float

    @classmethod
    def of(cls, vectors_NF: Floats, weight: float, decay: float) -> VectorSimilarity:
        """Normalise vectors of any length."""
        length = np.linalg.norm(vectors_NF, axis=1, keepdims=True)
        return cls(np.asarray(vectors_NF / np.where(length == 0, 1, length), np.float32), weight, decay)

    def user_vectors(self, taken: Sequence[Ints]) -> Floats:
        """Return user vectors (B, F) of length 1: decayed sums of items taken (rows, oldest first); 0 for no items."""
        sums = [self.decay ** np.arange(len(rows))[::-1] @ self.unit[rows] for rows in taken]
        user_BF = np.stack(sums).astype(np.float32)
        length = np.linalg.norm(user_BF, axis=1, keepdims=True)
        return np.asarray(user_BF / np.where(length == 0, 1, length), np.float32)

    def nearest(self, taken: Sequence[Ints], width: int, exclude: Sequence[Ints] | None = None) -> Ints:
        """Return the `width` items most similar to users' items (B, width), ties by row; -1 if none is left.

        `exclude` are the rows to leave out for each user. A user without items gets no result, and an item without a
        vector is never ranked.
        """
        found_BW = np.full((len(taken), width), -1, np.int64)
        bare_N, most = ~self.unit.any(axis=1), min(width, len(self.unit))
        at_once = max(1, CELLS // len(self.unit))
        for start in range(0, len(taken), at_once):
            part = slice(start, start + at_once)
            user_bF = self.user_vectors(taken[part])
            away_bN = np.maximum(1 - user_bF @ self.unit.T, 0)
            away_bN[:, bare_N] = np.inf
            away_bN[~user_bF.any(axis=1)] = np.inf
            if exclude is not None:
                for away_N, rows in zip(away_bN, exclude[part], strict=True):
                    away_N[rows[rows >= 0]] = np.inf
            distance, rows_bW = cheapest(away_bN, most)
            found_BW[part, :most] = np.where(np.isfinite(distance), rows_bW, -1)
        return found_BW

    def reranked(self, rows_BW: Ints, scores_BW: Floats, taken: Sequence[Ints]) -> Ints:
        """Return the candidates (B, W), -1 padded, by descending log p + weight * cosine; ties stay in order."""
        user_BF, total_BW = self.user_vectors(taken), np.array(scores_BW, np.float32)
        for start in range(0, len(rows_BW), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            total_BW[part] += self.weight * np.einsum("bwf,bf->bw", self.unit[rows_BW[part]], user_BF[part])
        total_BW[rows_BW < 0] = -np.inf
        return np.take_along_axis(rows_BW, np.argsort(-total_BW, axis=1, kind="stable"), axis=1)
