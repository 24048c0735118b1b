"""Sums that are equal in any order: values are rounded to a grid, and integers add up exactly.

Floating-point sums depend on the order of their terms, and so on the distribution of work. On a grid of 2^-37 of the
largest value, a span of rows adds up exactly in float64, and the spans in int64. That is finer than the 24 bits of the
float32 input.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from tokenizer.arrays.types import Ints

VALUE_BITS = 37
"""Bits of a value: sums of 2^16 rows, a span, then have 53, as a float64 holds."""
TOTAL_BITS = 62
"""Bits of a sum over all spans, which fits an int64."""
AT_ONCE = 2048
"""Least number of rows summed by one sparse product."""


def grid(largest: float, terms: int) -> float:
    """Return the scale at which `terms` values of magnitude at most `largest` add up exactly."""
    if largest <= 0:
        return 1.0
    return 2.0 ** (min(VALUE_BITS, TOTAL_BITS - max(terms, 1).bit_length()) - math.frexp(largest)[1])


def total(values_n: NDArray[Any], scale: float) -> int:
    """Return the sum of at most a span of values, in units of 1 / scale."""
    return int(np.rint(values_n * np.float64(scale)).sum())


def sums_by_code(values_nD: NDArray[Any], scale: float, codes_n: NDArray[np.int32], codes: int) -> tuple[Ints, Ints]:
    """Return sums int64 (codes, D) in units of 1 / scale, and counts int64 (codes,), of the rows of each code.

    Takes at most a span of rows. Rows with code -1 are left out.
    """
    place_n = np.where(codes_n < 0, codes, codes_n)
    sums = np.zeros((codes + 1, values_nD.shape[1]))
    at_once = max(AT_ONCE, codes)
    for start in range(0, len(place_n), at_once):
        own, value = place_n[start : start + at_once], values_nD[start : start + at_once] * np.float64(scale)
        rows = csc_array((np.ones(len(own)), own, np.arange(len(own) + 1)), shape=(codes + 1, len(own)))
        sums += rows @ np.rint(value, out=value)
    return sums[:codes].astype(np.int64), np.bincount(place_n, minlength=codes + 1)[:codes]
