"""Set of 64-bit hashes that grows by large arrays and is asked for large arrays."""

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


class SeenHashes:
    """Hashes in sorted runs, each at least twice as long as the next: 8 bytes a hash, and few runs to search.

    Adding n hashes costs O(n log n) in all, as in a log-structured merge tree.
    """

    def __init__(self) -> None:
        self._runs: list[Hashes] = []

    def add(self, hashes: Hashes) -> None:
        if not len(hashes):
            return
        run = np.sort(hashes)
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")  # merges sorted halves
        self._runs.append(run)

    def has(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Return for each hash whether it was added."""
        found = np.zeros(len(hashes), bool)
        order = np.argsort(hashes)
        wanted = hashes[order]
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, wanted), len(run) - 1)
            found[order] |= run[places] == wanted
        return found
