"""Baselines of recommenders, against plain loops."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from training.evaluation import baselines as floors
from training.evaluation.baselines import ItemNeighbours, popular_rows


@given(st.integers(0, 1000), st.integers(1, 8))
def test_popular_rows_are_the_most_counted_unseen_ones(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, 7)
    exclude = [rng.permutation(7)[:size] for size in (0, 3, 7)]
    for row, seen in zip(popular_rows(counts, width, exclude).tolist(), exclude, strict=True):
        order = sorted((item for item in range(7) if item not in seen), key=lambda item: (-counts[item], item))
        assert row == (order + [-1] * width)[:width]


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 8), st.booleans())
def test_neighbours_are_ranked_by_their_summed_cosine(seed: int, width: int, barred: bool) -> None:
    rng = np.random.default_rng(seed)
    taken = [rng.integers(0, 7, size) for size in rng.integers(0, 5, 12)]
    asked = [rng.integers(-1, 7, size) for size in (3, 0, 1, 4)]
    exclude = [rng.integers(-1, 7, size) for size in (1, 2, 0, 3)] if barred else None
    users = [{user for user, rows in enumerate(taken) if item in rows} for item in range(7)]
    ranked = ItemNeighbours.of(taken, 7).rank(asked, width, exclude)
    for case, row in enumerate(ranked.tolist()):
        scores = {}
        for item in set(range(7)) - set(exclude[case].tolist() if exclude else []):
            for other in set(asked[case].tolist()) - {-1, item}:
                if both := len(users[item] & users[other]):
                    cosine = both / (len(users[item]) * len(users[other])) ** 0.5
                    scores[item] = scores.get(item, 0.0) + cosine
        found = [item for item in row if item >= 0]
        assert row == found + [-1] * (width - len(found))
        assert len(set(found)) == len(found) == min(width, len(scores))
        assert [scores[item] for item in found] == pytest.approx(sorted(scores.values(), reverse=True)[: len(found)])


def test_an_item_keeps_its_nearest_neighbours() -> None:
    taken = [np.random.default_rng(seed).integers(0, 9, 5) for seed in range(12)]
    whole, cut = ItemNeighbours.of(taken, 9).cosine.toarray(), ItemNeighbours.of(taken, 9, nearest=3).cosine.toarray()
    for row, kept in zip(whole, cut, strict=True):
        nearest = sorted(range(9), key=lambda item: (-row[item], item))[:3]
        assert kept.tolist() == [value if item in nearest else 0.0 for item, value in enumerate(row)]


def test_long_histories_are_cut_to_their_newest_where_there_are_too_many_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    histories = [np.arange(8), np.array([6, 7])]
    assert ItemNeighbours.of(histories, 8).newest == 8
    monkeypatch.setattr(floors, "PAIRS", 30)
    cut = ItemNeighbours.of(histories, 8)
    assert cut.newest == 4
    assert cut.cosine[:4].nnz == 0
    assert cut.cosine[6, 7] == pytest.approx(1.0)


def test_there_may_be_as_many_pairs_as_fit_and_the_newest_event_is_always_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    histories = [np.arange(4), np.array([2, 3]), np.array([3])]
    for most, newest in ((21, 4), (20, 2), (9, 2), (8, 1), (3, 1), (2, 1), (0, 1)):
        monkeypatch.setattr(floors, "PAIRS", most)
        assert ItemNeighbours.of(histories, 4).newest == newest, most
    assert ItemNeighbours.of([], 4).newest == 1
    assert ItemNeighbours.of([], 4).rank([np.array([1])], 2).tolist() == [[-1, -1]]


@pytest.mark.parametrize("users", [1, 63, 64, 65, 200])
def test_users_are_ranked_for_in_parts_that_fit_and_the_parts_change_nothing(
    users: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(users)
    known = ItemNeighbours.of([rng.integers(0, 9, 4) for _ in range(30)], 9)
    asked, barred = ([rng.integers(0, 9, size) for size in rng.integers(0, 4, users)] for _ in range(2))
    whole, made, parts = known.rank(asked, 5, barred), floors._matrix, []

    def noted(histories: Sequence[np.ndarray], items: int) -> csr_matrix:
        parts.append(len(histories))
        return made(histories, items)

    monkeypatch.setattr(floors, "_matrix", noted)
    for cells, at_once in ((9 * 99, 99), (9, 64), (9 * 65, 65)):
        parts.clear()
        monkeypatch.setattr(floors, "CELLS", cells)
        np.testing.assert_array_equal(known.rank(asked, 5, barred), whole)
        assert max(parts) == min(users, at_once)
