"""Insertion and deletion of rows in sorted arrays."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.ragged import Ragged
from tokenizer.arrays.types import Array
from tokenizer.trie.arrays import Texts


def splice(old: Array, new: Array, places: NDArray[np.int64], gone: NDArray[np.int64]) -> Array:
    """Return `old` without the rows `gone`, and with new[i] inserted before old row places[i]; both ascending."""
    if len(gone):
        old, places = np.delete(old, gone), places - np.searchsorted(gone, places)
    return np.insert(old, places, new)


def splice_texts(old: tuple[NDArray[np.uint8], Ragged, int], new: Texts, places: Array, gone: Array) -> Texts:
    """Return the result of `splice` for strings; the old ones are bytes, their `Ragged` and their number.

    Unchanged strings between two changes are copied at once.
    """
    text, rows, count = old
    # A change inserts one new string before a row, or deletes the row.
    changed = np.concatenate([places, gone])
    order = np.argsort(changed, kind="stable")
    cuts = rows.starts(changed)
    resumes = np.concatenate([cuts[: len(places)], rows.starts(gone + 1)])
    added = np.ascontiguousarray(new[0]).data
    put = [added[start:stop] for start, stop in pairwise(new[1].tolist())] + [added[:0]] * len(gone)
    source, pieces, at = text.data, [], 0
    for change, cut, resume in zip(order.tolist(), cuts[order].tolist(), resumes[order].tolist(), strict=True):
        pieces += [source[at:cut], put[change]]
        at = resume
    merged = np.frombuffer(b"".join([*pieces, source[at:]]), np.uint8)
    lengths = splice(rows.lengths[:count].astype(np.int32), np.diff(new[1]), places, gone)
    return merged, np.cumsum(np.append(0, lengths), dtype=np.int32 if len(merged) < 1 << 31 else np.int64)
