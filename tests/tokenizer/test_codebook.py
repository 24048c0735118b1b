"""Fitting residual k-means, and codebooks as files."""

import math

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import load

from tokenizer.arrays.executor import LOCAL_THREADS
from tokenizer.arrays.items import checked_items
from tokenizer.arrays.vectors import Block
from tokenizer.assign import Occupancy, Status, assign_sids
from tokenizer.balancing.prices import FROM_NOTHING, CandidateCodes, settle_prices
from tokenizer.codebook import Codebook
from tokenizer.errors import CapacityExhausted, CodebookCorrupt, VectorError
from tokenizer.fit import fit_codebook as fit
from tokenizer.metrics import decode, encoding_errors
from tokenizer.quantizers import kmeans
from tokenizer.registry import quantizer_of
from tokenizer.spec import CodebookSpec, LevelSpec


def spec_of(*codes: int, **settings: object) -> CodebookSpec:
    levels = [LevelSpec(codes=size) for size in codes]
    return CodebookSpec.model_validate({"levels": levels, "iterations": 5, **settings})


def catalogue(items: int, width: int = 6, seed: int = 0) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    draw = np.random.default_rng(seed)
    centre = 2 * draw.normal(size=(10, width))
    vectors = centre[draw.integers(10, size=items)] + draw.normal(size=(items, width))
    return {"fused": vectors.astype(np.float32)}, [f"item-{row}" for row in range(items)]


VECTORS, IDS = catalogue(300)
CODEBOOK = fit(VECTORS, IDS, spec_of(12, 12, 12))


def test_the_same_items_give_the_same_bytes_in_any_order() -> None:
    shuffled = np.random.default_rng(1).permutation(300)
    again = fit({"fused": VECTORS["fused"][shuffled]}, [IDS[row] for row in shuffled], CODEBOOK.spec)
    assert again.to_bytes() == CODEBOOK.to_bytes()
    assert fit(VECTORS, IDS, spec_of(12, 12, 12, seed=1)).id != CODEBOOK.id


def test_capacity_is_frozen_at_the_fit_with_room_to_grow() -> None:
    assert (CODEBOOK.planned_items, CODEBOOK.fitted_items) == (600, 300)
    assert CODEBOOK.capacity == (math.ceil(1.5 * 600 / 12),) * 3
    assert fit(VECTORS, IDS, spec_of(12, 12, 12, balanced=False)).capacity == (900,) * 3


def test_balance_is_learnt_at_the_fit() -> None:
    loads = [level["max_load"] for level in CODEBOOK.statistics["levels"]]
    assert max(loads) <= math.ceil(1.5 * 300 / 12)


@pytest.mark.parametrize("in_memory", [True, False])
def test_unbalanced_single_level_is_as_good_as_plain_kmeans(monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    if not in_memory:
        monkeypatch.setattr(kmeans, "FAISS_BYTES", 0)
    vectors, ids = catalogue(2000, seed=3)
    codebook = fit(vectors, ids, spec_of(16, 4096, balanced=False, iterations=20))
    plain = faiss.Kmeans(6, 16, niter=20, nredo=3, seed=0, max_points_per_centroid=2000)
    plain.train(vectors["fused"])
    error = float(plain.obj[-1]) / float(np.square(vectors["fused"] - vectors["fused"].mean(axis=0)).sum())
    assert codebook.statistics["levels"][0]["relative_error"] <= 1.1 * error


@pytest.mark.parametrize("far", [0.0, 1e4])
def test_an_unbalanced_fit_does_not_know_the_order_of_its_items_nor_how_far_from_zero_they_lie(far: float) -> None:
    vectors, ids = catalogue(500, seed=4)
    there = {"fused": (vectors["fused"] + np.float32(far)).astype(np.float32)}
    spec = spec_of(16, 16, 16, balanced=False)
    turned = np.random.default_rng(0).permutation(500)
    codebook = fit(there, ids, spec)
    assert codebook.id == fit({"fused": there["fused"][turned]}, [ids[row] for row in turned], spec).id
    assert codebook.statistics["levels"][1]["relative_error"] < 0.35


@pytest.mark.gpu
@pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="needs a GPU and faiss-gpu")
def test_an_unbalanced_fit_on_a_gpu_is_as_good_as_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, ids = catalogue(2000)
    spec = spec_of(16, 16, 16, balanced=False)
    there = fit(vectors, ids, spec)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    here = fit(vectors, ids, spec)
    errors = [assign_sids(book, vectors, ids, Occupancy.empty(3)).relative_error for book in (there, here)]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)


def test_every_level_lowers_the_error() -> None:
    errors = [level["relative_error"] for level in CODEBOOK.statistics["levels"]]
    assert errors[0] > errors[1] > errors[2] > 0
    assert errors[0] < 0.5


def test_float16_vectors_are_taken_as_float32() -> None:
    half = {"fused": VECTORS["fused"].astype(np.float16)}
    assert fit(half, IDS, CODEBOOK.spec).id == fit({"fused": half["fused"].astype(np.float32)}, IDS, CODEBOOK.spec).id


def test_one_code_is_the_mean() -> None:
    codebook = fit(VECTORS, IDS, spec_of(1, 30, 30))
    np.testing.assert_allclose(codebook.arrays["level0"][0], VECTORS["fused"].mean(axis=0), atol=1e-5)
    assert (assign_sids(codebook, VECTORS, IDS, Occupancy.empty(3)).codes[:, 0] == 0).all()


def test_fewer_items_than_codes_decode_without_loss() -> None:
    vectors, ids = catalogue(5)
    codebook = fit(vectors, ids, spec_of(16, 4))
    assert codebook.arrays["level0"].shape == (16, 6)
    assert np.isfinite(codebook.arrays["level0"]).all()
    assigned = assign_sids(codebook, vectors, ids, Occupancy.empty(2))
    assert len(np.unique(assigned.codes, axis=0)) == 5
    assert assigned.relative_error < 1e-9


def test_a_thousand_identical_vectors_get_a_thousand_sids() -> None:
    vectors = {"fused": np.full((1000, 4), 0.3, np.float32)}
    ids = [str(row) for row in range(1000)]
    codebook = fit(vectors, ids, spec_of(16, 16, 16))
    assigned = assign_sids(codebook, vectors, ids, Occupancy.empty(3))
    assert len(np.unique(assigned.codes, axis=0)) == 1000
    assert (assigned.status != Status.REFIT_DUE).all()


def test_a_sample_is_drawn_by_seed_and_plans_for_all() -> None:
    codebook = fit(VECTORS, IDS, spec_of(12, 12, 12, sample=100))
    assert codebook.planned_items == 600
    assert codebook.statistics["items"] == 100
    assert codebook.id == fit(VECTORS, IDS, spec_of(12, 12, 12, sample=100)).id


def test_levels_read_their_own_source() -> None:
    draw = np.random.default_rng(0)
    vectors = {"text": draw.normal(size=(200, 4)), "image": draw.normal(size=(200, 3))}
    ids = [str(row) for row in range(200)]
    levels = (
        LevelSpec(codes=8, source="text"),
        LevelSpec(codes=16, source="image"),
        LevelSpec(codes=8, source="text"),
        LevelSpec(codes=4, source="image", input="vector"),
    )
    codebook = fit(vectors, ids, CodebookSpec(levels=levels, iterations=3, balanced=False))
    assert codebook.sources == ("text", "image")
    codes = assign_sids(codebook, vectors, ids, Occupancy.empty(4)).codes
    text = codebook.arrays["level0"][codes[:, 0]] + codebook.arrays["level2"][codes[:, 2]]
    np.testing.assert_allclose(decode(codebook, codes, "text"), text, rtol=1e-6)
    np.testing.assert_array_equal(decode(codebook, codes, "image"), codebook.arrays["level3"][codes[:, 3]])
    single = {name: vector.astype(np.float32) for name, vector in vectors.items()}
    last = quantizer_of(codebook.spec).level(codebook, 3)
    block = Block(single, np.zeros(200, np.uint64), codes[:, :3])
    np.testing.assert_array_equal(last.target(block), single["image"])  # type: ignore[attr-defined]


def test_relative_error_is_the_share_of_the_spread_that_is_lost() -> None:
    codes = assign_sids(CODEBOOK, VECTORS, IDS, Occupancy.empty(3)).codes
    lost = spread = 0.0
    for row, vector in enumerate(VECTORS["fused"].astype(np.float64)):
        decoded = sum(CODEBOOK.arrays[f"level{level}"][codes[row, level]].astype(np.float64) for level in range(3))
        lost += float(((vector - decoded) ** 2).sum())
        spread += float(((vector - VECTORS["fused"].mean(axis=0, dtype=np.float64)) ** 2).sum())
    items = checked_items(VECTORS, IDS, ("fused",), LOCAL_THREADS)
    assert encoding_errors(CODEBOOK, items, codes).relative == pytest.approx(lost / spread, rel=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_item_that_is_not_finite_is_named(value: float) -> None:
    vectors = {"fused": VECTORS["fused"].copy()}
    vectors["fused"][[7, 20], 2] = value
    with pytest.raises(VectorError, match=r"'item-7' contains (nan|inf|-inf) \(at least 2 of 300"):
        fit(vectors, IDS, CODEBOOK.spec)
    with pytest.raises(VectorError, match="item-7"):
        assign_sids(CODEBOOK, vectors, IDS, Occupancy.empty(3))


def test_misshapen_vectors_are_refused() -> None:
    for bad in (
        np.empty((300, 0), np.float32),
        np.zeros(300, np.float32),
        np.zeros((299, 6)),
        np.zeros((300, 6), int),
    ):
        with pytest.raises(VectorError):
            fit({"fused": bad}, IDS, CODEBOOK.spec)
    with pytest.raises(VectorError, match="fitted on width 6"):
        assign_sids(CODEBOOK, {"fused": np.zeros((1, 5), np.float32)}, ["x"], Occupancy.empty(3))
    with pytest.raises(VectorError, match="missing"):
        fit({"text": VECTORS["fused"]}, IDS, CODEBOOK.spec)
    with pytest.raises(VectorError, match="no items"):
        fit({"fused": np.empty((0, 6), np.float32)}, [], CODEBOOK.spec)


def test_a_code_space_too_small_for_the_plan_is_refused() -> None:
    with pytest.raises(CapacityExhausted, match=r"8 x 8 codes give 64 SIDs, but 600 are planned"):
        fit(VECTORS, IDS, spec_of(8, 8))


def test_spec_refuses_what_it_does_not_know() -> None:
    for bad in ({"levels": []}, {"levels": [{"codes": 0}]}, {"slack": 0.9}, {"growth": 0.5}, {"unknown": 1}):
        with pytest.raises(ValidationError):
            CodebookSpec.model_validate({"levels": [{"codes": 4}], **bad})


def test_a_codebook_survives_its_file() -> None:
    data = CODEBOOK.to_bytes()
    again = Codebook.from_bytes(data)
    assert (again.id, again.vocabulary, again.to_bytes()) == (CODEBOOK.id, CODEBOOK.vocabulary, data)
    assert (again.spec, again.capacity, again.statistics) == (
        CODEBOOK.spec,
        CODEBOOK.capacity,
        CODEBOOK.statistics,
    )
    np.testing.assert_array_equal(load(data)["level1"], CODEBOOK.arrays["level1"])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(CODEBOOK.to_bytes()) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused(place: int, flip: int) -> None:
    data = bytearray(CODEBOOK.to_bytes())
    data[place] ^= flip
    with pytest.raises(CodebookCorrupt):
        Codebook.from_bytes(bytes(data))


@pytest.mark.parametrize("length", [0, 4, 40, 500])
def test_a_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(CodebookCorrupt):
        Codebook.from_bytes(CODEBOOK.to_bytes()[:length])


@pytest.mark.parametrize("cost", [1.0, 1e-30, 1e-38, 1e-45])
def test_prices_are_numbers_however_little_tells_codes_apart(cost: float) -> None:
    """More codes than items leave residuals of rounding alone, down to the smallest number there is."""
    costs = np.zeros((30, 3), np.float32)
    costs[0, 2] = cost
    candidates = CandidateCodes(costs, np.tile(np.arange(3, dtype=np.int32), (30, 1)), np.full(30, np.inf, np.float32))
    prices = settle_prices(candidates, np.full(3, 10.0), np.zeros(3), FROM_NOTHING)
    assert np.isfinite(prices).all()
