"""Properties of every quantizer."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

import tokenizer.arrays.vectors
from tokenizer.arrays.distance import BLOCK
from tokenizer.arrays.executor import Threads
from tokenizer.arrays.vectors import Block, Items
from tokenizer.assign import Occupancy, Status, assign_sids
from tokenizer.codebook import Codebook
from tokenizer.collisions.extra_token import extra_tokens
from tokenizer.errors import CapacityExhausted
from tokenizer.fit import fit_codebook
from tokenizer.metrics import decode
from tokenizer.registry import QUANTIZERS, quantizer_of
from tokenizer.spec import CodebookSpec

SMALL: dict[str, Any] = {"hidden": (24, 16), "latent": 6, "epochs": 4, "steps": 30, "learning_rate": 0.01}
SPECS: dict[str, dict[str, Any]] = {
    **{name: {"quantizer": name, **({"vae": SMALL} if QUANTIZERS.get(name).trained else {})} for name in QUANTIZERS},
    "rq-kmeans, normalised": {"quantizer": "rq-kmeans", "normalise": True},
    "rq-kmeans, suffix": {"quantizer": "rq-kmeans", "collision": "suffix", "suffix_codes": 64},
    "rq-kmeans, item": {"quantizer": "rq-kmeans", "collision": "item"},
    "rq-kmeans, keep": {"quantizer": "rq-kmeans", "collision": "keep"},
    "hierarchical, suffix": {"quantizer": "hierarchical", "collision": "suffix"},
}


def spec_of(name: str, codes: tuple[int, ...] = (8, 8, 8), **changed: Any) -> CodebookSpec:
    return CodebookSpec.model_validate(
        {"levels": [{"codes": size} for size in codes], "iterations": 4, **SPECS[name], **changed}
    )


def catalogue(items: int, seed: int = 0, width: int = 10) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    draw = np.random.default_rng(seed)
    centre = 2 * np.random.default_rng(99).normal(size=(12, width))
    vectors = centre[draw.integers(12, size=items)] + draw.normal(size=(items, width))
    return {"fused": vectors.astype(np.float32)}, [f"item-{seed}-{row}" for row in range(items)]


def nobody(name: str) -> Occupancy:
    return Occupancy.empty(len(CODEBOOKS[name].sizes))


class Counted:
    """Three threads, and the most tasks that a call has given them."""

    def __init__(self) -> None:
        self.most = 0

    def map(self, function: Callable[..., Any], items: Items, tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        listed = list(tasks)
        self.most = max(self.most, len(listed))
        yield from Threads(3).map(function, items, listed)


VECTORS, IDS = catalogue(240)
SPAN = 50
"""Rows of a span, so that there are five to share out."""
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tokenizer.arrays.vectors, "SPAN", SPAN)
    CODEBOOKS = {name: fit_codebook(VECTORS, IDS, spec_of(name), Threads(1)) for name in SPECS}
each = pytest.mark.parametrize("name", SPECS)


@each
def test_the_same_items_give_the_same_bytes_in_any_order_and_for_any_workers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans by one worker after the other, as for CODEBOOKS, or by three at a time."""
    shuffled = np.random.default_rng(1).permutation(240)
    vectors, ids = {"fused": VECTORS["fused"][shuffled]}, [IDS[row] for row in shuffled]
    monkeypatch.setattr(tokenizer.arrays.vectors, "SPAN", SPAN)
    work = Counted()
    again = fit_codebook(vectors, ids, spec_of(name), work)
    assert again.to_bytes() == CODEBOOKS[name].to_bytes()
    found = assign_sids(again, vectors, ids, nobody(name), work)
    expected = assign_sids(again, VECTORS, IDS, nobody(name), Threads(1))
    np.testing.assert_array_equal(found.codes, expected.codes[shuffled])
    assert work.most == 5
    assert fit_codebook(VECTORS, IDS, spec_of(name, seed=1)).id != CODEBOOKS[name].id


@each
def test_the_record_says_how_good_every_codebook_is(name: str) -> None:
    record = CODEBOOKS[name].statistics
    assert [level["utilisation"] > 0 for level in record["levels"]] == [True] * 3
    assert 240 * (1 - record["collision_rate"]) <= record["unique_sids"] <= 240
    assert record["squared_error"] > 0
    assert record["relative_error"] > 0
    assert record["neighbours_sharing"] == sorted(record["neighbours_sharing"], reverse=True)
    assert len(record["neighbours_sharing"]) == 3


@each
def test_a_codebook_survives_its_file(name: str) -> None:
    data = CODEBOOKS[name].to_bytes()
    again = Codebook.from_bytes(data)
    assert (again.id, again.to_bytes()) == (CODEBOOKS[name].id, data)
    codes = assign_sids(again, VECTORS, IDS, nobody(name)).codes
    np.testing.assert_array_equal(codes, assign_sids(CODEBOOKS[name], VECTORS, IDS, nobody(name)).codes)


@each
@settings(max_examples=8, deadline=None)
@given(nights=st.lists(st.integers(0, 40), max_size=4), seed=st.integers(1, 10**6))
def test_sids_are_unique_within_capacity_and_never_move(name: str, nights: list[int], seed: int) -> None:
    codebook, draw = CODEBOOKS[name], np.random.default_rng(seed)
    published = assign_sids(codebook, VECTORS, IDS, nobody(name)).codes
    for night, items in enumerate(nights):
        vectors, ids = catalogue(items, seed + night)
        found = assign_sids(codebook, vectors, ids, Occupancy(published))
        shuffled = draw.permutation(items)
        other = {"fused": vectors["fused"][shuffled]}
        again = assign_sids(codebook, other, [ids[row] for row in shuffled], Occupancy(draw.permutation(published)))
        np.testing.assert_array_equal(found.codes[shuffled], again.codes)
        assert ((found.codes >= 0).all(axis=1) == (found.status != Status.REFIT_DUE)).all()
        published = np.concatenate([published, found.codes[found.status != Status.REFIT_DUE]])
        if codebook.spec.collision != "keep":
            assert len(np.unique(published, axis=0)) == len(published)
        for level, capacity in enumerate(codebook.capacity):
            assert np.bincount(published[:, level]).max() <= capacity


@each
def test_costs_do_not_depend_on_the_rest_of_the_block(name: str) -> None:
    vectors, _ = catalogue(BLOCK + 200, 3)
    codebook = CODEBOOKS[name]
    draw = np.random.default_rng(2)
    ties = draw.integers(1 << 62, size=BLOCK + 200).astype(np.uint64)
    for number in range(3):
        level = quantizer_of(codebook.spec).level(codebook, number)
        block = Block(vectors, ties, draw.integers(8, size=(BLOCK + 200, number)).astype(np.int32))
        whole = np.concatenate([cost for _, cost in level.costs(block)])
        assert whole.shape == (BLOCK + 200, level.codes)
        assert (whole >= 0).all()
        for rows in (slice(0, 1), slice(BLOCK - 3, BLOCK + 40), slice(5, 1000)):
            part = np.concatenate([cost for _, cost in level.costs(block.part(rows))])
            np.testing.assert_array_equal(part, whole[rows])


def odd(kind: str) -> NDArray[np.floating[Any]]:
    """Catalogues that arithmetic stumbles over."""
    draw = np.random.default_rng(5)
    usual = draw.normal(size=(60, 10)).astype(np.float32)
    repeated = np.broadcast_to(usual[:1], (60, 10)).copy()
    columns = usual.copy()
    columns[:, ::2] = 3.0
    return {
        "zero": np.zeros((60, 10), np.float32),
        "one vector repeated": repeated,
        "constant columns": columns,
        "half precision": usual.astype(np.float16),
        "few items": usual[:3],
        "far away": usual + np.float32(1e4),
        "of all sizes": usual * (10.0 ** draw.integers(-6, 7, (60, 1))).astype(np.float32),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["zero", "one vector repeated", "constant columns", "half precision", "few items", "far away", "of all sizes"],
)
@each
def test_odd_vectors_get_lawful_sids(name: str, kind: str) -> None:
    vectors = odd(kind)
    ids = [f"i{row}" for row in range(len(vectors))]
    codebook = fit_codebook({"fused": vectors}, ids, spec_of(name))
    found = assign_sids(codebook, {"fused": vectors}, ids, Occupancy.empty(len(codebook.sizes)))
    placed = found.codes[found.status != Status.REFIT_DUE]
    assert len(placed) == len(vectors)
    if codebook.spec.collision != "keep":
        assert len(np.unique(placed, axis=0)) == len(placed)
    assert np.isfinite(found.relative_error)
    assert np.isfinite(decode(codebook, placed[:, : codebook.levels], "fused")).all()
    assert all(np.bincount(placed[:, at]).max() <= most for at, most in enumerate(codebook.capacity))


@pytest.mark.parametrize("name", ["rq-kmeans", "rq-kmeans, normalised", "hierarchical", "opq", "random", "rq-vae"])
def test_a_level_of_one_code_says_nothing(name: str) -> None:
    codebook = fit_codebook(VECTORS, IDS, spec_of(name, (1, 32, 32)))
    found = assign_sids(codebook, VECTORS, IDS, nobody(name))
    assert (found.codes[:, 0] == 0).all()
    assert len(np.unique(found.codes, axis=0)) == 240


@pytest.mark.parametrize("name", [name for name in SPECS if name != "random"])
def test_decoding_comes_nearer_than_the_mean(name: str) -> None:
    found = assign_sids(CODEBOOKS[name], VECTORS, IDS, nobody(name))
    decoded = decode(CODEBOOKS[name], found.codes, "fused")
    assert decoded.shape == VECTORS["fused"].shape
    assert decoded.dtype == np.float32
    assert found.relative_error < 0.9


def test_what_is_learnt_beats_the_baselines() -> None:
    error = {name: assign_sids(book, VECTORS, IDS, nobody(name)).relative_error for name, book in CODEBOOKS.items()}
    assert error["rq-kmeans"] < error["lsh"] < error["random"] == pytest.approx(1, abs=1e-6)
    assert max(error["pq"], error["opq"], error["rq-opq"], error["hierarchical"]) < error["lsh"]


def test_an_lsh_code_is_the_signs_of_its_projections() -> None:
    book = fit_codebook(VECTORS, IDS, spec_of("lsh", (8, 4, 16, 16), balanced=False))
    raw = assign_sids(book, VECTORS, IDS, Occupancy.empty(4)).codes[:, 0]
    depth = (VECTORS["fused"] - book.arrays["mean.fused"]) @ book.arrays["planes0"]
    np.testing.assert_array_equal(raw, (depth > 0) @ (1 << np.arange(3)))


def test_a_hierarchical_code_is_the_nearest_centroid_under_its_prefix() -> None:
    book = fit_codebook(VECTORS, IDS, spec_of("hierarchical", (4, 6, 64), balanced=False))
    codes = assign_sids(book, VECTORS, IDS, Occupancy.empty(3)).codes
    for row in range(0, 240, 7):
        under = book.arrays["level1"][codes[row, 0]]
        assert codes[row, 1] == np.square(under - VECTORS["fused"][row]).sum(axis=1).argmin()


def test_a_pq_code_is_the_nearest_centroid_of_its_part() -> None:
    """Ten dimensions in three parts are four, four and two; the centroids of a part are the means of its items."""
    book = fit_codebook(VECTORS, IDS, spec_of("pq", (8, 8, 8), iterations=30, balanced=False, collision="keep"))
    codes = assign_sids(book, VECTORS, IDS, Occupancy.empty(3)).codes
    centred = VECTORS["fused"] - VECTORS["fused"].mean(axis=0)
    for number, part in enumerate((centred[:, :4], centred[:, 4:8], centred[:, 8:])):
        points = book.arrays[f"level{number}"][:, : part.shape[1]]
        near = np.square(part[:, None] - points).sum(axis=2).argmin(axis=1)
        np.testing.assert_array_equal(codes[:, number], near)
        means = np.stack([part[near == code].mean(axis=0) for code in range(8)])
        np.testing.assert_allclose(points, means, atol=0.05)


@pytest.mark.parametrize("name", ["pq", "opq"])
def test_parts_add_up_to_the_vector(name: str) -> None:
    """With a code per item in each part, decoding gives the vectors back: the rotation loses nothing."""
    vectors, ids = catalogue(16)
    book = fit_codebook(vectors, ids, spec_of(name, (16, 16, 16), iterations=10, balanced=False))
    codes = assign_sids(book, vectors, ids, Occupancy.empty(3)).codes
    np.testing.assert_allclose(decode(book, codes, "fused"), vectors["fused"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("lsh", {"levels": [{"codes": 6}]}),
        ("opq", {"levels": [{"codes": 4, "source": "a"}, {"codes": 4, "source": "b"}]}),
        ("rq-opq", {"tail": 3}),
        ("hierarchical", {"normalise": True}),
    ],
)
def test_a_spec_that_a_quantizer_cannot_follow_is_refused(name: str, changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec_of(name, **changed)


def test_hierarchical_centroids_beyond_memory_are_refused() -> None:
    with pytest.raises(CapacityExhausted, match="rq-kmeans, which shares centroids"):
        fit_codebook(VECTORS, IDS, spec_of("hierarchical", (1024, 1024, 1024)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=30), st.integers(0, 30), st.booleans())
def test_extra_tokens_count_on_from_what_is_taken(codes: list[tuple[int, int]], old: int, per_sid: bool) -> None:
    """Against a dictionary of counters."""
    sizes = (3, 2, 6 if per_sid else 40)
    counters: dict[tuple[int, ...], int] = {}

    def count(sid: tuple[int, ...]) -> int:
        key = sid if per_sid else ()
        counters[key] = counters.get(key, -1) + 1
        return counters[key] if counters[key] < sizes[2] else -1

    taken = [(*sid, token) for sid in codes[:old] if (token := count(sid)) >= 0]
    expected = [count(sid) for sid in codes[old:]]
    found = extra_tokens(
        np.array(codes[old:], np.int32).reshape(-1, 2), np.array(taken, np.int32).reshape(-1, 3), sizes, per_sid
    )
    assert found.tolist() == expected
