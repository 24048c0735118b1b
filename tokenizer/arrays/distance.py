"""Squared distances to centroids whose bytes do not depend on how many rows are asked for at once."""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK = 1024
"""Rows of every product, the last one padded: with fewer a GEMM may take another way."""


def product(matrix_DK: Floats) -> Callable[[Floats], Floats]:
    """What multiplies BLOCK rows (BLOCK, D) by a matrix, each row's bytes free of its place and of the other rows.

    Some kernels sum in an order that depends on the place of a row (OpenBLAS for Haswell on the first and the last six
    of twelve). There both sides are rounded to a grid on which sums in float64 are exact, in whatever order; it takes
    about twice as long.
    """
    if rows_are_free(*matrix_DK.shape):
        return lambda block_BD: block_BD @ matrix_DK
    there_DK = on_grid(matrix_DK, 0)
    return lambda block_BD: (on_grid(block_BD, 1) @ there_DK).astype(np.float32)


@cache
def rows_are_free(width: int, columns: int) -> bool:
    """Whether the kernel for such a matrix gives rows that are the same the same bytes, wherever they stand."""
    draw = np.random.default_rng(0)
    matrix_DK = draw.normal(size=(width, columns)).astype(np.float32)
    for row_D in draw.normal(size=(4, width)).astype(np.float32):
        made_BK = np.tile(row_D, (BLOCK, 1)) @ matrix_DK
        if (made_BK != made_BK[0]).any():
            return False
    return True


def on_grid(values: Floats, summed: int) -> NDArray[np.float64]:
    """Values rounded to so many bits below the largest along the axis `summed` that sums of products of two such along
    it have no more than the 53 of float64."""
    bits = (53 - (values.shape[summed] - 1).bit_length()) // 2
    _, exponent = np.frexp(np.abs(values).max(axis=summed, keepdims=True, initial=0).astype(np.float64))
    step = np.ldexp(1.0, exponent - bits)
    scaled = values / step
    np.rint(scaled, out=scaled)
    scaled *= step
    return np.asarray(scaled, np.float64)


def distance_blocks(vectors_ND: Floats, centroids_KD: Floats) -> Iterator[tuple[slice, Floats]]:
    """Rows and their squared distances to all centroids, float32 (rows, K), block by block.

    Both sides are moved by the mean centroid first: the expansion |x|^2 - 2xc + |c|^2 loses its digits far
    from 0.
    """
    shift = centroids_KD.mean(axis=0, dtype=np.float64).astype(np.float32)
    moved_KD = centroids_KD - shift
    norms_K = np.einsum("kd,kd->k", moved_KD, moved_KD)
    times = product(np.ascontiguousarray(-2 * moved_KD.T))
    padded_BD = np.zeros((BLOCK, vectors_ND.shape[1]), np.float32)
    for start in range(0, len(vectors_ND), BLOCK):
        rows = slice(start, min(start + BLOCK, len(vectors_ND)))
        count = rows.stop - rows.start
        np.subtract(vectors_ND[rows], shift, out=padded_BD[:count])
        padded_BD[count:] = 0
        cost_BK = times(padded_BD)
        cost_BK += norms_K
        cost_BK += np.einsum("nd,nd->n", padded_BD, padded_BD)[:, None]
        yield rows, np.maximum(cost_BK[:count], 0, out=cost_BK[:count])


def blocked_product(vectors_ND: Floats, matrix_Dd: Floats) -> Floats:
    """vectors @ matrix, each row's bytes free of the other rows."""
    times = product(matrix_Dd)
    made = np.empty((len(vectors_ND), matrix_Dd.shape[1]), np.float32)
    padded = np.zeros((BLOCK, vectors_ND.shape[1]), np.float32)
    for start in range(0, len(vectors_ND), BLOCK):
        count = min(BLOCK, len(vectors_ND) - start)
        padded[:count] = vectors_ND[start : start + count]
        padded[count:] = 0
        made[start : start + count] = times(padded)[:count]
    return made


def own_distance(vectors_ND: Floats, centroids_KD: Floats, codes_N: NDArray[np.int32]) -> NDArray[np.float64]:
    """The squared distance of each vector to the centroid of its code, float64 (N,)."""
    distance_N = np.empty(len(vectors_ND))
    for start in range(0, len(vectors_ND), 1 << 16):
        rows = slice(start, start + (1 << 16))
        gap = (vectors_ND[rows] - centroids_KD[codes_N[rows]]).astype(np.float64)
        distance_N[rows] = np.einsum("nd,nd->n", gap, gap)
    return distance_N


def nearest(vectors_ND: Floats, centroids_KD: Floats) -> NDArray[np.int32]:
    """The nearest centroid of each vector, int32 (N,); of two at the same distance the lower code."""
    codes_N = np.empty(len(vectors_ND), np.int32)
    for rows, cost in distance_blocks(vectors_ND, centroids_KD):
        codes_N[rows] = cost.argmin(axis=1)
    return codes_N


def cheapest(cost: Floats, width: int) -> tuple[Floats, NDArray[np.int32]]:
    """The `width` least of the costs (N, K) of each row, none below 0, and their codes, in order of cost and then code.

    Sorted as one number of 64 bits, a cost above and its code below: in half the time of `np.partition` of costs and
    looking up what is not above the last.
    """
    number = np.add(cost, np.float32(0)).view(np.uint32).astype(np.uint64)  # -0 would be the largest
    number <<= np.uint64(32)
    number |= np.arange(cost.shape[1], dtype=np.uint64)
    if width < cost.shape[1]:
        number.partition(width - 1, axis=1)
    least = np.sort(number[:, :width], axis=1)
    return (least >> np.uint64(32)).astype(np.uint32).view(np.float32), least.astype(np.uint32).view(np.int32)
