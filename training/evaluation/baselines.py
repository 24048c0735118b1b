"""Baseline recommenders: the most popular items, and neighbours of a user's items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from tokenizer.arrays.types import Ints

PAIRS = 1 << 25
"""Most pairs of items of the same user that are counted; some hundreds of MB."""
CELLS = 1 << 22
"""Scores held at once, roughly, if all items were neighbours."""


def popular_rows(counts: Ints, width: int, exclude: Sequence[Ints]) -> Ints:
    """Return the `width` most frequent rows for each user, without the rows excluded for them; (n, width), -1 padded.

    counts (N,) are train events per row before the cutoff; ties go to the lower row.
    """
    order = np.argsort(-counts, kind="stable")
    out = np.full((len(exclude), width), -1, dtype=np.int64)
    for user, rows in enumerate(exclude):
        head = order[: width + len(rows)]
        kept = head[~np.isin(head, rows)][:width]
        out[user, : len(kept)] = kept
    return out


@dataclass(frozen=True, eq=False)
class ItemNeighbours:
    """Item-based nearest neighbours: cosine similarity of two items' sets of users (N, N), 0 on the diagonal.

    `newest` is the number of a user's newest events that were counted.
    """

    cosine: csr_matrix
    newest: int

    @classmethod
    def of(cls, histories: Sequence[Ints], items: int, nearest: int | None = None) -> ItemNeighbours:
        """Count the items that users took together; histories hold rows 0..items-1, oldest first.

        With `nearest`, an item keeps only so many neighbours. Popular items are neighbours of nearly everything, so
        without a limit ranking for their users costs as much as scoring all items.

        The cost of a user with n events is n * n. If the sum over all users exceeds PAIRS, the older events of the
        longest histories are left out.
        """
        lengths = np.array([len(rows) for rows in histories], np.int64)
        newest = int(lengths.max(initial=1))
        while newest > 1 and int((np.minimum(lengths, newest) ** 2).sum()) > PAIRS:
            newest //= 2
        taken = _matrix([rows[-newest:] for rows in histories], items)
        together = (taken.T @ taken).tocsr()
        together.setdiag(0)
        together.eliminate_zeros()
        length = 1 / np.sqrt(np.maximum(1, np.asarray(taken.sum(axis=0)).ravel()))
        cosine = together.multiply(length[:, None]).multiply(length[None, :]).tocsr()
        return cls(cosine if nearest is None else _nearest(cosine, nearest), newest)

    def rank(self, histories: Sequence[Ints], width: int, exclude: Sequence[Ints] | None = None) -> Ints:
        """Return the `width` items with the highest sum of cosines to a history's items, (n, width), -1 padded.

        Leaves out the rows excluded for each history and items without a neighbour in it. Ties go to the lower row.
        """
        items = self.cosine.shape[0]
        out = np.full((len(histories), width), -1, np.int64)
        at_once = max(64, CELLS // max(1, items))
        for start in range(0, len(histories), at_once):
            scores = (_matrix(histories[start : start + at_once], items) @ self.cosine).tocoo()
            user, row, score = scores.row.astype(np.int64), scores.col.astype(np.int64), scores.data
            kept = score > 0
            if exclude is not None:
                barred = _matrix(exclude[start : start + at_once], items).tocoo()
                kept &= ~np.isin(user * items + row, barred.row.astype(np.int64) * items + barred.col)
            user, row, score = user[kept], row[kept], score[kept]
            best = np.lexsort((row, -score, user))
            user, row = user[best], row[best]
            place = np.arange(len(user)) - np.searchsorted(user, user)
            head = place < width
            out[start + user[head], place[head]] = row[head]
        return out


def _nearest(cosine: csr_matrix, nearest: int) -> csr_matrix:
    """Return the largest entries of each row; among equal ones the lower columns."""
    bounds, kept = cosine.indptr, np.ones(cosine.nnz, np.bool_)
    cosine.sort_indices()
    for row in np.flatnonzero(np.diff(bounds) > nearest):
        part = slice(bounds[row], bounds[row + 1])
        kept[part] = False
        kept[bounds[row] + np.argsort(-cosine.data[part], kind="stable")[:nearest]] = True
    starts = np.append(0, np.cumsum(kept))[bounds]
    return csr_matrix((cosine.data[kept], cosine.indices[kept], starts), shape=cosine.shape)


def _matrix(histories: Sequence[Ints], items: int) -> csr_matrix:
    """Return the matrix of the items in each history, 0 or 1, (n, items); -1, outside the release, is ignored."""
    rows = np.repeat(np.arange(len(histories)), [len(each) for each in histories])
    columns = np.concatenate([*histories, np.zeros(0, np.int64)])
    known = columns >= 0
    matrix = csr_matrix((np.ones(known.sum()), (rows[known], columns[known])), shape=(len(histories), items))
    matrix.data[:] = 1.0
    return matrix
