"""Figures that a trie tells of its SIDs: those of counting the SIDs themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.code_usage import level_metrics
from tokenizer.metrics import collision_metrics, pair_agreement
from tokenizer.trie.groups import chance_agreement, collisions, items_below, level_usage
from tokenizer.trie.trie import Trie

SIZES = (3, 40, 10)
SIDS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 39), st.integers(0, 9)), max_size=60)


@settings(max_examples=100, deadline=None)
@given(sids=SIDS, shared=st.booleans())
def test_figures_of_a_trie_are_those_of_its_sids(sids: list[tuple[int, int, int]], shared: bool) -> None:
    rows = sids if shared else list(dict.fromkeys(sids))
    codes = np.array(rows, np.int32).reshape(-1, 3)
    trie = Trie.build(codes, [f"i{row}" for row in range(len(codes))], SIZES, shared)
    ordered = np.array(sorted(rows), np.int32).reshape(-1, 3)
    assert trie.codes_of(np.arange(len(codes))).tolist() == ordered.tolist()
    assert trie.codes_of(np.arange(len(codes))[::-2]).tolist() == ordered[::-2].tolist()
    for length in (1, 2, 3):
        prefixes = sorted({row[:length] for row in rows})
        assert items_below(trie, length).tolist() == [sum(row[:length] == each for row in rows) for each in prefixes]
    assert level_usage(trie) == level_metrics(codes, SIZES)
    assert collisions(trie) == collision_metrics(codes)


@settings(max_examples=50, deadline=None)
@given(sids=SIDS)
def test_chance_agreement_is_the_agreement_of_all_pairs(sids: list[tuple[int, int, int]]) -> None:
    codes = np.array(sids, np.int32).reshape(-1, 3)
    pairs = np.array([(one, other) for one in range(len(codes)) for other in range(len(codes)) if one != other])
    trie = Trie.build(codes, [f"i{row}" for row in range(len(codes))], SIZES, shared=True)
    assert chance_agreement(trie) == pytest.approx(pair_agreement(codes, pairs))
