"""One sortable key per SID or prefix, in the order of the codes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sid_keys(codes_NL: NDArray[np.int32], sizes: Sequence[int]) -> NDArray[Any]:
    """Return keys (N,) that sort and compare as the rows do.

    uint64 if the bits of all codes fit, else big-endian bytes. Codes must be within `sizes`.
    """
    if sum(code_bits(sizes)) <= 64:
        key_N = np.zeros(len(codes_NL), np.uint64)
        for level, bits in enumerate(code_bits(sizes)):
            key_N <<= np.uint64(bits)
            np.bitwise_or(key_N, codes_NL[:, level], out=key_N, dtype=np.uint64, casting="unsafe")
        return key_N
    big_endian_NL = np.ascontiguousarray(codes_NL, dtype=">u4")
    return big_endian_NL.view(f"S{4 * len(sizes)}").ravel()


def key_codes(keys: NDArray[Any], sizes: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Yield the codes of the keys (N,), level by level, each (N,) in the narrowest type for its size."""
    if keys.dtype != np.uint64:
        codes_NL = np.ascontiguousarray(keys).view(">u4").reshape(-1, len(sizes))
        yield from (codes_NL[:, level].astype(np.min_scalar_type(size - 1)) for level, size in enumerate(sizes))
        return
    below = sum(code_bits(sizes))
    for size, bits in zip(sizes, code_bits(sizes), strict=True):
        below -= bits
        code = keys >> np.uint64(below)
        code &= np.uint64((1 << bits) - 1)
        yield code.astype(np.min_scalar_type(size - 1))


def code_bits(sizes: Sequence[int]) -> list[int]:
    """Return the number of bits per level in a key."""
    return [(size - 1).bit_length() for size in sizes]


def sort_sids(codes_NL: NDArray[np.int32], sizes: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return sorted keys (N,) and the rows in that order (N,); the order of rows with equal SIDs is arbitrary.

    If key and row number fit 64 bits together, sorting both as one number is 4 to 10 times as fast as an argsort.
    """
    keys = sid_keys(codes_NL, sizes)
    row_bits = np.uint64(max(len(keys) - 1, 0).bit_length())
    if keys.dtype == np.uint64 and sum(code_bits(sizes)) + int(row_bits) <= 64:
        keys <<= row_bits
        keys |= np.arange(len(keys), dtype=np.uint64)
        keys.sort()
        order = (keys & ((np.uint64(1) << row_bits) - np.uint64(1))).view(np.int64)
        keys >>= row_bits
        return keys, order
    order = np.argsort(keys)
    return keys[order], order


def check_codes(codes_NL: NDArray[Any], sizes: Sequence[int], what: str) -> NDArray[np.int32]:
    """Return the codes as int32 (N, L). Raises ValueError when the shape or a code does not fit the sizes."""
    codes = np.asarray(codes_NL)
    if codes.ndim != 2 or codes.shape[1] != len(sizes) or codes.dtype.kind not in "iu":
        raise ValueError(
            f"{what} are {codes.dtype} of shape {codes.shape}; pass integers of shape (SIDs, {len(sizes)})"
        )
    # Column by column, because a reduction over the rows of a narrow array takes four times as long.
    if len(codes) and any(code.min() < 0 or code.max() >= size for code, size in zip(codes.T, sizes, strict=True)):
        row, level = (int(place) for place in np.argwhere((codes < 0) | (codes >= np.asarray(sizes)))[0])
        raise ValueError(
            f"{what}: row {row} has code {codes[row, level]} at level {level}, but that level has {sizes[level]} "
            "codes; leave out items without a SID, and use the codebook that made the codes"
        )
    return codes.astype(np.int32, copy=False)
