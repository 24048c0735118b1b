"""Products whose bytes depend on a row and a matrix alone, whatever the kernel."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.arrays import distance
from tokenizer.arrays.distance import BLOCK, blocked_product, is_position_independent, on_grid


@given(width=st.integers(1, 40), columns=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_sums_on_the_grid_are_exact(width: int, columns: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    scale = 10.0 ** draw.integers(-6, 7, (3, 1))
    rows, matrix = (scale * draw.normal(size=(3, width))).astype(np.float32), draw.normal(size=(width, columns))
    left, right = on_grid(rows, 1), on_grid(matrix.astype(np.float32), 0)
    for row, sums in zip(left, left @ right, strict=True):
        for column, found in zip(right.T, sums, strict=True):
            exact = sum(Fraction(a) * Fraction(b) for a, b in zip(row.tolist(), column.tolist(), strict=True))
            assert Fraction(found) == exact
    assert (np.abs(left - rows) <= np.abs(rows).max(axis=1, keepdims=True) * 2.0**-22).all()


@pytest.mark.parametrize("kernel_is_free", [True, False])
@pytest.mark.parametrize(("width", "columns"), [(3, 1), (64, 8), (64, 256), (100, 17)])
def test_a_row_has_the_same_bytes_wherever_it_stands(
    width: int, columns: int, kernel_is_free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel_is_free and not is_position_independent(width, columns):
        pytest.skip("the kernel of this machine does not give them")
    monkeypatch.setattr(distance, "is_position_independent", lambda *_: kernel_is_free)
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(BLOCK + 300, width)).astype(np.float32)
    matrix = draw.normal(size=(width, columns)).astype(np.float32)
    whole = blocked_product(rows, matrix)
    np.testing.assert_allclose(whole, rows.astype(np.float64) @ matrix, rtol=0, atol=1e-4)
    shuffled = draw.permutation(len(rows))
    np.testing.assert_array_equal(blocked_product(rows[shuffled], matrix), whole[shuffled])
    for part in (slice(0, 1), slice(BLOCK - 3, BLOCK + 40), slice(7, 12)):
        np.testing.assert_array_equal(blocked_product(rows[part], matrix), whole[part])


def test_a_kernel_that_goes_by_the_place_of_a_row_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that adds up the last rows of a block in float32 and the others in float64."""

    class Rows(np.ndarray):
        def __matmul__(self, matrix: np.ndarray) -> np.ndarray:
            made = (np.asarray(self, np.float64) @ np.asarray(matrix, np.float64)).astype(np.float32)
            made[-4:] = np.cumsum(np.asarray(self)[-4:, :, None] * np.asarray(matrix)[None], axis=1)[:, -1]
            return made

    tile = np.tile
    monkeypatch.setattr(np, "tile", lambda *given: tile(*given).view(Rows))
    assert not is_position_independent.__wrapped__(64, 16)
