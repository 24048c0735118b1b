"""One sortable key per SID or prefix, in the order of the codes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sid_keys(codes_NL: NDArray[np.int32], sizes: Sequence[int]) -> NDArray[Any]:
    """Keys (N,) that sort and compare as the rows do: uint64 where the code space fits, else big-endian
    bytes.

    Codes must be within `sizes`.
    """
    if math.prod(sizes) <= 1 << 64:
        key_N = np.zeros(len(codes_NL), np.uint64)
        for level, size in enumerate(sizes):
            key_N = key_N * np.uint64(size) + codes_NL[:, level].astype(np.uint64)
        return key_N
    wide = np.ascontiguousarray(codes_NL, dtype=">u4")
    return wide.view(f"S{4 * len(sizes)}").ravel()


def sid_order(codes_NL: NDArray[np.int32], sizes: Sequence[int]) -> NDArray[np.int64]:
    """Rows in the order of their SIDs; rows of equal SIDs in an order of no meaning.

    Where key and row number fit 64 bits together, sorting both as one number is 4 to 10 times as fast as an
    argsort.
    """
    keys = sid_keys(codes_NL, sizes)
    row_bits = max(len(keys) - 1, 0).bit_length()
    if keys.dtype == np.uint64 and math.prod(sizes) <= 1 << (64 - row_bits):
        packed = np.sort((keys << np.uint64(row_bits)) | np.arange(len(keys), dtype=np.uint64))
        return (packed & np.uint64((1 << row_bits) - 1)).astype(np.int64)
    return np.argsort(keys, kind="stable")


def check_codes(codes_NL: NDArray[Any], sizes: Sequence[int], what: str) -> NDArray[np.int32]:
    """The codes as int32 (N, L); ValueError when the shape or a code does not suit the sizes."""
    codes = np.asarray(codes_NL)
    if codes.ndim != 2 or codes.shape[1] != len(sizes) or codes.dtype.kind not in "iu":
        raise ValueError(f"{what} are {codes.dtype} of shape {codes.shape}; pass integers, SIDs x {len(sizes)} levels")
    bad = np.argwhere((codes < 0) | (codes >= np.asarray(sizes)))
    if len(bad):
        row, level = (int(place) for place in bad[0])
        raise ValueError(
            f"{what} have code {codes[row, level]} at level {level} of row {row}, which has {sizes[level]} codes; "
            "leave out items without a SID and use the codebook that made the codes"
        )
    return codes.astype(np.int32)
