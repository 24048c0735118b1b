"""Places for the few items whose prefix is full: the nearest free SID elsewhere, by depth-first search."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tokenizer.codebook import Codebook
from tokenizer.distance import Floats
from tokenizer.quantizer import Quantizer
from tokenizer.sid_keys import sid_keys

Codes = NDArray[np.int32]
Prefix = tuple[int, ...]


def place_outward(
    codebook: Codebook,
    quantizer: Quantizer,
    room: list[NDArray[np.int64]],
    vectors: Mapping[str, Floats],
    codes_UL: Codes,
    settled_ML: Codes,
) -> Codes:
    """SIDs (U, L) that are free and have room at each level, -1 in all levels once there are none.

    Each item in turn tries the codes it has, level by level, and then the next nearest, the last level first.
    What is taken only grows, so a prefix found full stays full and is searched once, whatever the number of
    items.
    """
    search = _Search(codebook, quantizer, room, settled_ML)
    placed_UL = np.full_like(codes_UL, -1)
    for row in range(len(codes_UL)):
        own = {source: vector[row : row + 1] for source, vector in vectors.items()}
        sid = search.nearest_free((), own, tuple(codes_UL[row].tolist()))
        if sid is not None:
            search.take(sid)
            placed_UL[row] = sid
    return placed_UL


class _Search:
    def __init__(
        self, codebook: Codebook, quantizer: Quantizer, room: list[NDArray[np.int64]], settled_ML: Codes
    ) -> None:
        self.codebook, self.quantizer, self.room = codebook, quantizer, room
        keys = sid_keys(settled_ML[:, :-1], codebook.sizes[:-1])
        order = np.argsort(keys, kind="stable")
        self.settled_keys, self.settled_last = keys[order], settled_ML[order, -1]
        self.taken: dict[Prefix, NDArray[np.bool_]] = {}
        self.full: set[Prefix] = set()

    def nearest_free(self, prefix: Prefix, vectors: Mapping[str, Floats], home: Prefix) -> Prefix | None:
        """The first free SID under `prefix`, codes tried in order of distance and those of `home` first."""
        if prefix in self.full:
            return None
        level = len(prefix)
        at_last = level == self.codebook.levels - 1
        closed = self.room[level] <= 0
        if at_last:
            closed = closed | self.taken_under(prefix)
        if not closed.all():
            distance = self._distance(prefix, vectors)
            distance[closed] = np.inf
            if at_last:
                return (*prefix, int(distance.argmin()))
            if prefix == home[:level] and not closed[home[level]]:
                distance[home[level]] = -np.inf
            for code in np.argsort(distance, kind="stable")[: np.count_nonzero(~closed)].tolist():
                sid = self.nearest_free((*prefix, code), vectors, home)
                if sid is not None:
                    return sid
        self.full.add(prefix)
        return None

    def take(self, sid: Prefix) -> None:
        for level, code in enumerate(sid):
            self.room[level][code] -= 1
        self.taken_under(sid[:-1])[sid[-1]] = True

    def taken_under(self, prefix: Prefix) -> NDArray[np.bool_]:
        if prefix not in self.taken:
            key = sid_keys(np.array([prefix], np.int32).reshape(1, -1), self.codebook.sizes[:-1])
            start, stop = (int(np.searchsorted(self.settled_keys, key, side)[0]) for side in ("left", "right"))
            self.taken[prefix] = np.zeros(self.codebook.sizes[-1], bool)
            self.taken[prefix][self.settled_last[start:stop]] = True
        return self.taken[prefix]

    def _distance(self, prefix: Prefix, vectors: Mapping[str, Floats]) -> NDArray[np.float64]:
        aim = self.quantizer.target(self.codebook, vectors, np.array([prefix], np.int32).reshape(1, -1))
        gap = self.quantizer.centroids(self.codebook, len(prefix)) - aim
        return np.asarray(np.einsum("kd,kd->k", gap, gap), dtype=np.float64)
