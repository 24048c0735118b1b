"""Content hashes as numbers of 128 bits, which take 16 bytes in memory. Their text, of 32 digits, takes 48.

Neither Arrow nor NumPy have such numbers. `halves` are two of 64 bits each.
"""

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from storage.hashing.process import DIGEST_BYTES

Halves = NDArray[np.uint64]
_HALF = pl.lit(1 << 64, dtype=pl.UInt128)
_ROWS = 1 << 20
"""Numbers that are put together at a time: this takes three times their memory."""


def packed(hashes: pl.Series) -> pl.Series:
    """Return the numbers that texts of hexadecimal digits are; null for null, and for any other text."""
    digits = hashes.str.decode("hex", strict=False).bin
    return digits.reinterpret(dtype=pl.UInt128, endianness="big").rename("content_hash")


def packed_if_all(hashes: pl.Series) -> pl.Series:
    """Return the numbers of texts if all of them are hashes of 16 bytes, else the texts."""
    if hashes.dtype != pl.String or not hashes.str.contains(f"^[0-9a-f]{{{2 * DIGEST_BYTES}}}$").all():
        return hashes
    return packed(hashes)


def as_text(hashes: pl.Series) -> pl.Series:
    """Return hashes, packed or not, as texts."""
    if hashes.dtype != pl.UInt128:
        return hashes.cast(pl.String)
    present = hashes.is_not_null()
    digits = halves(hashes.fill_null(pl.lit(0, pl.UInt128))).astype(">u8").tobytes()
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIGEST_BYTES), len(hashes), [None, pa.py_buffer(digits)])
    texts = pl.Series(column.cast(pa.large_binary()), dtype=pl.Binary).bin.encode("hex")
    return pl.select(pl.when(present).then(texts).alias(hashes.name)).to_series()


def halves(numbers: pl.Series) -> Halves:
    """Return the high and the low half of each number, uint64 (N, 2)."""
    column = pl.col(numbers.name)
    both = numbers.to_frame().select(high=(column // _HALF).cast(pl.UInt64), low=(column % _HALF).cast(pl.UInt64))
    return np.column_stack([both["high"].to_numpy(), both["low"].to_numpy()])


def from_halves(both: Halves) -> pl.Series:
    """Return the numbers of which these, (N, 2), are the halves."""
    number = pl.col("high").cast(pl.UInt128) * _HALF + pl.col("low").cast(pl.UInt128)
    parts = [pl.Series("content_hash", [], pl.UInt128)]
    for start in range(0, len(both), _ROWS):
        high, low = both[start : start + _ROWS].T
        parts.append(pl.DataFrame({"high": high, "low": low}).select(number.alias("content_hash")).to_series())
    return pl.concat(parts, rechunk=True)
