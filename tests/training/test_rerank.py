"""Putting candidates in order by probability and similarity, against a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.arrays.distance import cheapest
from training.evaluation import rerank
from training.evaluation.rerank import VectorSimilarity


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 20), st.floats(0, 1))
def test_candidates_go_by_probability_and_likeness(seed: int, weight: float, decay: float) -> None:
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(12, 4)).astype(np.float32)
    vectors[0] = 0
    taken = [draw.integers(0, 12, length) for length in (0, 1, 5)]
    found = np.stack([draw.permutation(12)[:6] for _ in taken])
    found[1, 4:] = -1
    scores = np.where(found < 0, draw.choice([-np.inf, 99]), draw.normal(size=found.shape)).astype(np.float32)
    ranked = VectorSimilarity.of(vectors, weight, decay).reranked(found, scores, taken)
    for user, rows in enumerate(taken):
        wish = np.zeros(4)
        for back, row in enumerate(reversed(rows)):
            wish += decay**back * vectors[row] / max(np.linalg.norm(vectors[row]), 1e-30)
        total = {-1: -np.inf}
        for row, score in zip(found[user], scores[user], strict=True):
            lengths = np.linalg.norm(vectors[row]) * np.linalg.norm(wish)
            if row >= 0:
                total[row] = score + (weight * (vectors[row] @ wish) / lengths if lengths > 1e-9 else 0.0)
        assert sorted(ranked[user]) == sorted(found[user])
        assert (np.diff([total[row] for row in ranked[user] if row >= 0]) <= 1e-4).all()
        assert (ranked[user] < 0).sum() == (found[user] < 0).sum() == (ranked[user][::-1] < 0).cumprod().sum()


def test_without_weight_and_for_users_of_whom_nothing_is_known_probability_decides() -> None:
    vectors, scores = np.eye(3, dtype=np.float32), np.array([[-1.0, -2.0, -3.0]], np.float32)
    found, last = np.array([[0, 1, 2]]), [np.array([2])]
    assert VectorSimilarity.of(vectors, 0.0, 0.5).reranked(found, scores, last).tolist() == [[0, 1, 2]]
    assert VectorSimilarity.of(vectors, 9.0, 0.5).reranked(found, scores, [np.array([], np.int64)]).tolist() == [
        [0, 1, 2]
    ]
    assert VectorSimilarity.of(vectors, 9.0, 0.5).reranked(found, scores, last).tolist() == [[2, 0, 1]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.integers(1, 9), st.booleans())
def test_retrieval_by_vectors_alone_is_sorting_all_items(seed: int, decay: float, width: int, exclude: bool) -> None:
    draw = np.random.default_rng(seed)
    vectors = draw.integers(-2, 3, (7, 2)).astype(np.float32)  # some alike, some nothing
    taken = [draw.integers(0, 7, draw.integers(0, 4)) for _ in range(5)]
    hidden = [np.append(rows, -1) for rows in taken]
    found = VectorSimilarity.of(vectors, 1.0, decay).nearest(taken, width, hidden if exclude else None)
    whole = VectorSimilarity.of(vectors, 1.0, decay)
    for user, rows in enumerate(taken):
        asked = whole.user_vectors([rows])[0]
        shown = [item for item in range(7) if vectors[item].any() and asked.any() and not (exclude and item in rows)]
        cosine = {item: float(whole.unit[item] @ asked) for item in shown}
        expected = sorted(shown, key=lambda item: -cosine[item])[:width]
        got = found[user][found[user] >= 0].tolist()
        assert len(got) == len(expected) == len(set(got))
        assert found[user].tolist() == got + [-1] * (width - len(got))
        np.testing.assert_allclose([cosine[item] for item in got], [cosine[item] for item in expected], atol=1e-6)


@pytest.mark.parametrize("cells", [1, 7, 20, 21, 35, 10**6])
def test_users_are_asked_about_in_parts_that_fit_and_the_parts_change_nothing(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven items: as many users at a time as their cells allow, one at least."""
    draw = np.random.default_rng(0)
    found = VectorSimilarity.of(draw.normal(size=(7, 3)).astype(np.float32), 1.0, 0.9)
    taken = [draw.integers(0, 7, 3) for _ in range(5)]
    whole, compared = found.nearest(taken, 4, taken), []

    def noted(cost: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        compared.append(len(cost))
        return cheapest(cost, width)

    monkeypatch.setattr(rerank, "CELLS", cells)
    monkeypatch.setattr(rerank, "cheapest", noted)
    np.testing.assert_array_equal(found.nearest(taken, 4, taken), whole)
    assert max(compared) == min(5, max(1, cells // 7))
    monkeypatch.setattr(rerank, "AT_ONCE", 2)
    scores = draw.normal(size=whole.shape).astype(np.float32)
    ranked = found.reranked(whole, scores, taken)
    monkeypatch.setattr(rerank, "AT_ONCE", 99)
    np.testing.assert_array_equal(ranked, found.reranked(whole, scores, taken))
