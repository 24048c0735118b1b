"""Pairs for the training of a fusion: all of a small log, an even sample of a large one, with behaviour before them."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_log_fit import lake_with, parts_of, rows_of, seen_in, spec_of

from pipelines.collaborative import newest_pairs
from pipelines.collaborative.log_fit import fit_log
from pipelines.collaborative.newest_pairs import NewestPairs, sampled_pairs
from pipelines.event_log.behaviour_log import LogItems, behaviour_log
from pipelines.event_log.visible_log import COLUMNS, histories
from pipelines.spec import FusionSpec


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), parts=st.integers(1, 5), most=st.integers(1, 300))
def test_a_sample_is_every_so_manieth_pair_of_the_parts_in_their_order(seed: int, parts: int, most: int) -> None:
    log = seen_in(rows_of(seed), spec_of())
    since = log.newest(0.5)
    every = np.concatenate([part.pairs_since(3, since) for part in parts_of(log, parts)])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(newest_pairs, "MAX_PAIRS", most)
        kept, one_in = sampled_pairs(parts_of(log, parts), 3, since)
    np.testing.assert_array_equal(kept, every[::one_in])
    assert len(kept) <= most
    assert one_in == 1 or len(every[:: one_in // 2]) > most
    assert (one_in == 1) == (len(every) <= most)


@pytest.mark.parametrize("most", [10_000, 40])
def test_the_vectors_beside_the_pairs_are_those_of_the_events_before_them(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest_pairs, "MAX_PAIRS", most)
    spec, fusion = spec_of(fit_items=20), FusionSpec(recent=0.5)
    with lake_with(rows_of(3)) as (lake, log):
        seen = histories(log.read(lake, COLUMNS), spec)
        since = seen.newest(fusion.recent)
        with behaviour_log(lake, log, LogItems.of(lake, log, spec), spec) as taken:
            fit = fit_log(taken, spec)
            assert fit is not None
            found = NewestPairs.of(fit, fusion)
    earlier = dict(fit.factors.fold(seen.where(seen.time < since)).iter_rows())
    items = found.items.to_pylist()
    assert {item for at, item in enumerate(items) if found.before.present[at]} == earlier.keys() & set(items)
    for at in np.flatnonzero(found.before.present):
        assert found.before.take(np.array([at])).vectors[0].tolist() == earlier[items[at]]
    named = pl.Series(items).gather(found.pairs.ravel()).to_numpy().reshape(-1, 2)
    wanted = np.array(seen.names)[seen.pairs(fusion.pair_window, since)]
    if most == 10_000:
        assert found.one_in == 1
        assert items == list(seen.names)
        np.testing.assert_array_equal(named, wanted)
    else:
        assert found.one_in > 1
        assert sorted(set(named.ravel())) == items
        assert {tuple(pair) for pair in named} < {tuple(pair) for pair in wanted}
