"""Work in parts gives what work at once gives: residuals by rows, pieces of few items."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.arrays.vectors import PIECES, SMALLEST, SPAN, Block, pieces
from tokenizer.balancing import costs
from tokenizer.balancing.costs import Residual


@pytest.mark.parametrize("rows", [0, 1, costs.ROWS, costs.ROWS + 1, 3 * costs.ROWS - 1])
@pytest.mark.parametrize("levels", [0, 1, 3])
def test_a_residual_is_what_is_left_after_the_points_of_all_former_levels(rows: int, levels: int) -> None:
    draw = np.random.default_rng(rows)
    vectors = draw.standard_normal((rows, 5)).astype(np.float32)
    points = [draw.standard_normal((7, 5)).astype(np.float32) for _ in range(levels)]
    prefix = draw.integers(-1, 7, (rows, levels)).astype(np.int32)
    left = vectors
    for level, centroids in enumerate(points):
        left = left - centroids[prefix[:, level]]
    found = Residual("a", tuple(enumerate(points)))(Block({"a": vectors}, np.zeros(rows, np.uint64), prefix))
    np.testing.assert_array_equal(found, left)
    assert found.dtype == np.float32


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5 * SPAN))
def test_pieces_cover_all_rows_in_order_and_lie_within_spans(items: int) -> None:
    found = pieces(items)
    assert [start for start, _ in found] == [0, *(stop for _, stop in found)][: len(found)]
    assert sum(stop - start for start, stop in found) == items
    assert all(start // SPAN == (stop - 1) // SPAN for start, stop in found)


def test_few_items_are_shared_out_and_very_few_are_not() -> None:
    assert len(pieces(SPAN)) == SPAN // SMALLEST
    assert len(pieces(PIECES * SPAN)) == PIECES
    assert len(pieces(SMALLEST)) == 1
