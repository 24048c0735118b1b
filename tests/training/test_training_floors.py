"""What a recommender must beat, against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import floors
from training.floors import ItemNeighbours, popular_rows


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
    asked = [rng.integers(-1, 7, size) for size in (0, 1, 4)]
    exclude = [rng.integers(-1, 7, size) for size in (2, 0, 3)] if barred else None
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
