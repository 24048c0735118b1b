"""Rows that a stage cannot account for stop the run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.counts import Counts

few = st.integers(0, 4)


@given(rows_in=few, out=few, unchanged=few, refused=st.dictionaries(st.sampled_from("abc"), few))
def test_counts_pass_where_they_balance_and_nowhere_else(
    rows_in: int, out: int, unchanged: int, refused: dict[str, int]
) -> None:
    counts = Counts("assign", rows_in, out, unchanged)
    for reason, rows in refused.items():
        counts.refuse(reason, rows)
    if rows_in == out + unchanged + sum(refused.values()):
        assert counts.check() is counts
    else:
        with pytest.raises(AssertionError, match="assign lost rows"):
            counts.check()
