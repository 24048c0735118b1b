"""How SIDs become tokens: one shared table, every level at its own offset, then BOS and PAD."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TokenLayout:
    """Token ids of a vocabulary with `sizes` codes per level: token = offset[level] + code."""

    sizes: tuple[int, ...]

    @property
    def levels(self) -> int:
        """Codes per item, a disambiguation level included."""
        return len(self.sizes)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """First token of every level, shape (L,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    @property
    def bos(self) -> int:
        """The token every history starts with."""
        return sum(self.sizes)

    @property
    def pad(self) -> int:
        """The token behind the end of a history."""
        return sum(self.sizes) + 1

    @property
    def count(self) -> int:
        """Rows of the embedding table."""
        return sum(self.sizes) + 2

    def sequences(
        self,
        codes: npt.NDArray[np.integer],
        feedback: npt.NDArray[np.integer],
        starts: npt.NDArray[np.int64],
        stops: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Token rows of the event ranges [starts, stops), padded on the right to the longest of them.

        codes (N, L), feedback (N,), starts and stops (B,) -> tokens (B, 1 + E*L), feedback (B, 1 + E*L) and the
        source row of each event (B, E), -1 where padded. Padding stands on the right so that training needs no
        mask: under causal attention nothing looks at it.
        """
        longest = int((stops - starts).max(initial=0))
        rows = starts[:, None] + np.arange(longest)[None, :]
        rows = np.where(rows < stops[:, None], rows, -1)
        size = (len(starts), longest, self.levels)
        valid = (rows >= 0)[:, :, None]
        tokens = np.full((len(starts), 1 + longest * self.levels), self.bos, dtype=np.int64)
        marks = np.zeros_like(tokens)
        if longest:
            tokens[:, 1:] = np.where(valid, codes[rows] + self.offsets, self.pad).reshape(len(starts), -1)
            marks[:, 1:] = np.broadcast_to(np.where(valid, feedback[rows][:, :, None], 0), size).reshape(
                len(starts), -1
            )
        return tokens, marks, rows
