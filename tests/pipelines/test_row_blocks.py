"""Products on several cores have the bytes of the product on one."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from pipelines.collaborative import row_blocks
from pipelines.collaborative.row_blocks import RowBlocks, Symmetric


def _symmetric(size: int) -> csr_matrix:
    draw = np.random.default_rng(size)
    upper = np.triu(np.where(draw.random((size, size)) < 0.3, draw.random((size, size)), 0), 1)
    return csr_matrix(upper + upper.T)


@pytest.mark.parametrize("cpus", [1, 2, 5, 64])
def test_a_product_in_blocks_has_the_bytes_of_the_whole_product(cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_blocks, "FEW", 0)
    monkeypatch.setattr(row_blocks, "machine_cpus", lambda: cpus)
    matrix = _symmetric(40)
    for width in (None, 3):
        other = np.random.default_rng(1).standard_normal(40 if width is None else (40, width))
        np.testing.assert_array_equal(RowBlocks(matrix) @ other, matrix @ other)


def test_the_factorisation_of_the_operator_is_that_of_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_blocks, "FEW", 0)
    monkeypatch.setattr(row_blocks, "machine_cpus", lambda: 3)
    matrix, start = _symmetric(60), np.random.default_rng(2).standard_normal(60)
    found = svds(Symmetric(RowBlocks(matrix)), k=5, v0=start)
    for ours, plain in zip(found, svds(matrix, k=5, v0=start), strict=True):
        np.testing.assert_array_equal(ours, plain)
