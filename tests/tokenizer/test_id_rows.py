"""Ids are found among many, and numbers are kept on the scratch disk, as in memory."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer.arrays import spool
from tokenizer.arrays.id_rows import IdRows
from tokenizer.arrays.spool import Spool

IDS = st.lists(st.text(max_size=12), max_size=40)


@given(ids=st.lists(st.text(max_size=12), max_size=40, unique=True), sought=IDS)
def test_an_id_is_found_at_its_row_and_others_nowhere(ids: list[str], sought: list[str]) -> None:
    asked = [*sought, *ids[::-1]]
    for kind in (pa.string(), pa.large_string()):
        found = IdRows(pa.array(ids, pa.large_string())).find(pa.array(asked, kind))
        assert found.tolist() == [ids.index(each) if each in ids else -1 for each in asked]


def test_a_spool_gives_what_was_appended(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (0, 1 << 20):
        monkeypatch.setattr(spool, "IN_MEMORY", limit)
        kept = Spool(np.int32)
        assert not len(kept.whole())
        for start in range(0, 50_000, 10_000):
            kept.append(np.arange(start, start + 10_000))
            assert kept.read(start + 5, start + 8).tolist() == [start + 5, start + 6, start + 7]
        np.testing.assert_array_equal(kept.whole(), np.arange(50_000))
        assert kept.whole().dtype == np.int32
