"""Matrix products and squared distances to centroids; the bytes of a row do not depend on the other rows of a call."""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tokenizer.arrays.types import Floats

BLOCK = 1024
"""Rows of every product; the last block is padded. With fewer rows a GEMM may take another code path."""


def product(matrix_DK: Floats) -> Callable[[Floats], Floats]:
    """Return a function that multiplies BLOCK rows (BLOCK, D) by a matrix.

    The bytes of a row do not depend on its position or on the other rows. Some kernels sum in an order that depends on
    the row's position (OpenBLAS for Haswell, on the first and last six of twelve). For these, both sides are rounded to
    a grid on which float64 sums are exact in any order, at about twice the time.
    """
    if is_position_independent(*matrix_DK.shape):
        return lambda block_BD: block_BD @ matrix_DK
    rounded_DK = on_grid(matrix_DK, 0)
    return lambda block_BD: (on_grid(block_BD, 1) @ rounded_DK).astype(np.float32)


@cache
def is_position_independent(width: int, columns: int) -> bool:
    """Return whether the kernel for this matrix shape gives equal rows equal bytes at every position."""
    draw = np.random.default_rng(0)
    matrix_DK = draw.normal(size=(width, columns)).astype(np.float32)
    for row_D in draw.normal(size=(4, width)).astype(np.float32):
        product_BK = np.tile(row_D, (BLOCK, 1)) @ matrix_DK
        if (product_BK != product_BK[0]).any():
            return False
    return True


def on_grid(values: Floats, summed: int) -> NDArray[np.float64]:
    """Round values so that sums of products of two of them along the axis `summed` are exact in float64.

    Such sums then need at most its 53 bits. The grid is relative to the largest value along the axis.
    """
    bits = (53 - (values.shape[summed] - 1).bit_length()) // 2
    _, exponent = np.frexp(np.abs(values).max(axis=summed, keepdims=True, initial=0).astype(np.float64))
    step = np.ldexp(1.0, exponent - bits)
    scaled = values / step
    np.rint(scaled, out=scaled)
    scaled *= step
    return np.asarray(scaled, np.float64)


def distance_blocks(vectors_ND: Floats, centroids_KD: Floats) -> Iterator[tuple[slice, Floats]]:
    """Yield, block by block, a slice of rows and the squared distances of these to all centroids, float32 (rows, K).

    The mean centroid is subtracted from both sides first, because the expansion |x|^2 - 2xc + |c|^2 loses precision far
    from 0.
    """
    shift = centroids_KD.mean(axis=0, dtype=np.float64).astype(np.float32)
    moved_KD = centroids_KD - shift
    norms_K = np.einsum("kd,kd->k", moved_KD, moved_KD)
    multiply = product(np.ascontiguousarray(-2 * moved_KD.T))
    padded_BD = np.zeros((BLOCK, vectors_ND.shape[1]), np.float32)
    for start in range(0, len(vectors_ND), BLOCK):
        rows = slice(start, min(start + BLOCK, len(vectors_ND)))
        count = rows.stop - rows.start
        np.subtract(vectors_ND[rows], shift, out=padded_BD[:count])
        padded_BD[count:] = 0
        cost_BK = multiply(padded_BD)
        cost_BK += norms_K
        cost_BK += np.einsum("nd,nd->n", padded_BD, padded_BD)[:, None]
        yield rows, np.maximum(cost_BK[:count], 0, out=cost_BK[:count])


def blocked_product(vectors_ND: Floats, matrix_Dd: Floats) -> Floats:
    """Return vectors @ matrix, float32 (N, d); the bytes of a row do not depend on other rows."""
    multiply = product(matrix_Dd)
    out_Nd = np.empty((len(vectors_ND), matrix_Dd.shape[1]), np.float32)
    padded_BD = np.zeros((BLOCK, vectors_ND.shape[1]), np.float32)
    for start in range(0, len(vectors_ND), BLOCK):
        count = min(BLOCK, len(vectors_ND) - start)
        padded_BD[:count] = vectors_ND[start : start + count]
        padded_BD[count:] = 0
        out_Nd[start : start + count] = multiply(padded_BD)[:count]
    return out_Nd


def own_distance(vectors_ND: Floats, centroids_KD: Floats, codes_N: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the squared distance of each vector to the centroid of its code, float64 (N,)."""
    distance_N = np.empty(len(vectors_ND))
    for start in range(0, len(vectors_ND), 1 << 16):
        rows = slice(start, start + (1 << 16))
        gap = (vectors_ND[rows] - centroids_KD[codes_N[rows]]).astype(np.float64)
        distance_N[rows] = np.einsum("nd,nd->n", gap, gap)
    return distance_N


def nearest(vectors_ND: Floats, centroids_KD: Floats) -> NDArray[np.int32]:
    """Return the code of each vector's nearest centroid, int32 (N,); at equal distance the lower code."""
    codes_N = np.empty(len(vectors_ND), np.int32)
    for rows, cost in distance_blocks(vectors_ND, centroids_KD):
        codes_N[rows] = cost.argmin(axis=1)
    return codes_N


def cheapest(cost: Floats, width: int) -> tuple[Floats, NDArray[np.int32]]:
    """Return the `width` smallest costs of each row of (N, K), and their codes, ordered by cost, then code.

    Costs must not be negative. Each cost and its code are packed into one 64-bit number (cost in the high bits) and
    sorted, in half the time of `np.partition` on the costs and a look-up of the selected codes.
    """
    number = np.add(cost, np.float32(0)).view(np.uint32).astype(np.uint64)  # -0 becomes 0, else it sorts last
    number <<= np.uint64(32)
    number |= np.arange(cost.shape[1], dtype=np.uint64)
    if width < cost.shape[1]:
        number.partition(width - 1, axis=1)
    least = np.sort(number[:, :width], axis=1)
    return (least >> np.uint64(32)).astype(np.uint32).view(np.float32), least.astype(np.uint32).view(np.int32)
