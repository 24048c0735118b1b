"""An index from item ids to rows without a dictionary: rows ordered by id hash, and the start of each bucket.

An id is compared with the ids of its bucket, about five, so a look-up hashes only the id it looks for. Sorting 1M id
strings takes 0.5 s; hashing them eight bytes at a time and sorting hash and row as one number takes 0.1 s.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tokenizer.arrays.ragged import spans
from tokenizer.arrays.types import Array

HASH_ROWS = 1 << 12
"""Ids that are hashed at a time: their states fit a core's cache."""
BUCKET_BITS = 3
"""A bucket holds 4 to 8 rows on average, so its start costs at most a byte a row; each is compared in a look-up."""
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: products of it spread over all high bits
_HALF, _BITS = np.uint64(32), np.uint64(8)


def hash_ids(text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a hash of each id `text[offsets[i]:offsets[i + 1]]`, uint64 (N,), equal on every machine.

    The state starts as the length. Each eight bytes, little-endian and padded with 0, are xored into it; then it is
    multiplied by _ODD, and its high half is xored into its low half. A final product gives the hash. Its high bits are
    the best mixed.
    """
    hashed = np.empty(len(offsets) - 1, np.uint64)
    for start in range(0, len(hashed), HASH_ROWS):
        bounds = offsets[start : start + HASH_ROWS + 1]
        hashed[start : start + HASH_ROWS] = _hash_block(text[bounds[0] : bounds[-1]], bounds - bounds[0])
    return hashed


def _hash_block(text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    words = np.zeros(len(text) // 8 + 2, "<u8")
    words.view(np.uint8)[: len(text)] = text
    place, left = offsets[:-1], np.diff(offsets)
    state = left.astype(np.uint64)
    rows: Any = slice(None)
    for _ in range(-(-int(left.max(initial=0)) // 8)):
        if left.min() <= 0:
            keep = np.flatnonzero(left > 0)
            rows = keep if isinstance(rows, slice) else rows[keep]
            place, left = place[keep], left[keep]
        at, shift = place >> 3, (place & 7).astype(np.uint64) * _BITS
        word = words[at] >> shift
        word |= (words[at + 1] << np.uint64(1)) << (np.uint64(63) - shift)
        unused = np.maximum(8 - left, 0).astype(np.uint64) * _BITS
        word = ((word << unused) >> unused) ^ state[rows]
        word *= _ODD
        state[rows] = word ^ (word >> _HALF)
        place, left = place + 8, left - 8
    return state * _ODD


def last_bytes(text: NDArray[np.uint8], ends: Array, lengths: Array) -> NDArray[np.uint64]:
    """Return the last eight bytes of each id `text[end - length:end]`, or all it has, little-endian, uint64 (N,).

    Of the ids of a bucket, which often have one length and one beginning, hardly two agree in them.
    """
    if len(text) < 8:
        text = np.append(text, np.zeros(8 - len(text), np.uint8))
    ends = np.asarray(ends, np.int64)
    first = np.maximum(ends - 8, 0)
    words: NDArray[np.uint64] = sliding_window_view(text, 8)[first].view("<u8")[:, 0]
    words <<= (8 * (8 - (ends - first))).astype(np.uint64)
    others = (64 - 8 * np.minimum(lengths, 8)).astype(np.uint64)  # bits of what is before the id, up to 64
    words >>= others // 2
    words >>= others - others // 2
    return words


def build_index(hashed: NDArray[np.uint64], ids: pa.Array) -> dict[str, Array]:
    """Return `id_order` (N,): rows sorted by (high half of the hash, row); `id_buckets`: the start of each bucket.

    Raises ValueError when an id occurs twice.
    """
    packed = hashed & ~np.uint64(0xFFFFFFFF)
    packed |= np.arange(len(hashed), dtype=np.uint64)
    packed.sort()
    order = packed.astype(np.uint32)
    packed >>= np.uint64(32)
    repeated = np.flatnonzero(packed[1:] == packed[:-1])
    names = sorted(ids.take(pa.array(order[np.union1d(repeated, repeated + 1)])).to_pylist())
    for one, other in pairwise(names):
        if one == other:
            raise ValueError(f"item {one!r} has more than one SID; give each item one")
    bits = bucket_bits(len(order))
    inside = np.bincount((packed >> np.uint64(32 - bits)).view(np.int64), minlength=1 << bits)
    return {"id_order": order, "id_buckets": np.concatenate([[0], np.cumsum(inside)]).astype(np.uint32)}


def bucket_bits(count: int) -> int:
    """Return the number of hash bits that select a bucket, for 2^(BUCKET_BITS - 1) to 2^BUCKET_BITS rows in each."""
    return max(max(count - 1, 0).bit_length() - BUCKET_BITS, 0)


def candidates(hashed: NDArray[np.uint64], order: Array, buckets: Array) -> tuple[NDArray[np.int64], Array]:
    """Return candidate rows for the hashes (M,): positions in `hashed` (X,), and rows (X,)."""
    bucket = ((hashed >> _HALF) >> np.uint64(32 - bucket_bits(len(order)))).astype(np.int64)
    start = buckets[bucket].astype(np.int64)
    count = buckets[bucket + 1] - start
    return np.repeat(np.arange(len(hashed)), count), order[spans(start, count)]
