"""Beam search with a temperature, with groups of beams and with diversity."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_beam_search import SIZES, histories, model_of, score_all, trie_of, whole, within

from tokenizer.trie.trie import Trie
from training.data.events import Events
from training.decoding.beam_search import SamplingOptions, beam_search, search_sids
from training.models.generator import Generator


def test_a_temperature_flattens_every_level() -> None:
    model, trie = model_of(7), trie_of(12, 7)
    events = histories([2, 3], 7)
    expected = score_all(model, trie, events, temperature=2.5)
    rows, scores = beam_search(model, whole(trie), events, 12, sampling=SamplingOptions(temperature=2.5))
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1))
    np.testing.assert_allclose(scores, np.take_along_axis(expected, rows, axis=1), atol=1e-3)


@torch.no_grad()
def groups_in_turn(model: Generator, trie: Trie, events: Events, beams: int, sampling: SamplingOptions) -> list[int]:
    """Diverse beam search of one user in plain Python: rows, best first."""
    sids = [tuple(codes) for codes in trie.codes().tolist()]

    @cache
    def levels(sid: tuple[int, ...]) -> list[list[float]]:
        item = torch.tensor([[sid]])
        kinds = torch.cat([events.kinds, torch.zeros(1, 1, dtype=torch.long)], dim=1)
        after = Events(torch.cat([events.codes, item], dim=1), kinds, events.lengths + 1)
        target = torch.arange(after.codes.shape[1])[None] == events.lengths
        return [each.tolist() for each in within(model, trie, sid, [each[0] for each in model(after, target)])]

    def score(prefix: tuple[int, ...]) -> float:
        scores = levels(next(sid for sid in sids if sid[: len(prefix)] == prefix))
        return sum(scores[at][code] for at, code in enumerate(prefix))

    rows = {tuple(codes): row for row, codes in enumerate(trie.codes().tolist())}
    live: list[list[tuple[int, ...]]] = [[()] for _ in range(sampling.groups)]
    for level in range(1, len(SIZES) + 1):
        children = {sid[:level] for sid in rows}
        taken: Counter[int] = Counter()
        after: list[list[tuple[int, ...]]] = []
        for mine in live:

            def order(child: tuple[int, ...], mine: list[tuple[int, ...]] = mine) -> tuple[bool, float]:
                return child[:-1] not in mine, sampling.diversity * taken[child[-1]] - score(child)  # noqa: B023

            gone = {child for group in after for child in group}
            left = {child for child in children - gone if any(child[:-1] in group for group in live)}
            after.append(sorted(left, key=order)[: beams // sampling.groups])
            taken.update(child[-1] for child in after[-1])
        live = after
    return [rows[sid] for sid in sorted((sid for group in live for sid in group), key=score, reverse=True)]


@settings(max_examples=25, deadline=None)
@given(
    items=st.integers(1, 40),
    groups=st.integers(1, 4),
    share=st.integers(1, 4),
    diversity=st.sampled_from([0.0, 0.7, 50]),
)
def test_groups_take_turns_as_in_plain_loops(items: int, groups: int, share: int, diversity: float) -> None:
    model, trie = model_of(8), trie_of(items, items)
    events = histories([3], items)
    sampling = SamplingOptions(1.0, groups, diversity)
    rows, _ = beam_search(model, whole(trie), events, groups * share, sampling=sampling)
    expected = groups_in_turn(model, trie, events, groups * share, sampling)
    assert rows[0].tolist() == expected + [-1] * (groups * share - len(expected))


def test_diversity_spreads_the_codes_of_every_level_that_a_search_takes() -> None:
    model, trie = model_of(9), trie_of(60, 9)
    events = histories([3, 1, 5], 9)

    def first_codes(sampling: SamplingOptions) -> int:
        rows, _ = beam_search(model, whole(trie), events, 4, sampling=sampling)
        return sum(len(np.unique(trie.codes()[row, 0])) for row in rows)

    assert first_codes(SamplingOptions(1.0, 4, 100.0)) == 12 > first_codes(SamplingOptions())


def test_groups_that_cannot_share_the_beams_are_refused() -> None:
    model, trie = model_of(0), trie_of(5, 0)
    with pytest.raises(ValueError, match="5 beams cannot be divided among 2 groups"):
        search_sids(model, whole(trie), histories([2], 0), 5, sampling=SamplingOptions(groups=2))
