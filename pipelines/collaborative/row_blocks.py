"""Products with a sparse matrix on the cores of the machine. Each row is summed alone, so the bytes stay the same."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator

from pipelines.compute.cluster import machine_cpus
from tokenizer.arrays.executor import map_on_cores

FEW = 1 << 17
"""Entries of a matrix up to which handing it to threads costs more than it gains."""


class RowBlocks:
    """A sparse matrix as one block of rows for each core, with about as many entries each."""

    def __init__(self, matrix: csr_matrix) -> None:
        self.matrix = matrix
        count = machine_cpus() if matrix.nnz > FEW else 1
        ends = np.searchsorted(matrix.indptr, np.linspace(0, matrix.nnz, count + 1)[1:-1])
        edges = [0, *ends.tolist(), matrix.shape[0]]
        self._blocks = [_rows(matrix, first, end) for first, end in pairwise(edges)]

    def __matmul__(self, other: NDArray[np.float64]) -> NDArray[np.float64]:
        if len(self._blocks) == 1:
            return np.asarray(self.matrix @ other)
        return np.concatenate(map_on_cores(lambda block: np.asarray(block @ other), self._blocks))


def _rows(matrix: csr_matrix, first: int, end: int) -> csr_matrix:
    """Return some rows without a copy of their entries."""
    low, high = matrix.indptr[first], matrix.indptr[end]
    starts = matrix.indptr[first : end + 1] - low
    return csr_matrix((matrix.data[low:high], matrix.indices[low:high], starts), (end - first, matrix.shape[1]))


class Symmetric(LinearOperator):  # type: ignore[misc]
    """A symmetric matrix as an operator: its products with rows of the left side are those of the right one."""

    def __init__(self, matrix: RowBlocks) -> None:
        super().__init__(matrix.matrix.dtype, matrix.matrix.shape)
        self._blocks = matrix

    def _matvec(self, vector: Any) -> Any:
        return self._blocks @ vector

    _matmat = _rmatvec = _rmatmat = _matvec
