"""Catalogues without variety: every item gets a SID of its own, by lot where nothing tells items apart."""

import warnings

import numpy as np
import pytest

from pipelines.fusion.fit import fit_fusion
from pipelines.modalities import Modality
from pipelines.spec import FusionSpec
from tokenizer.assign import Occupancy, assign_sids
from tokenizer.fit import fit_codebook
from tokenizer.spec import CodebookSpec, LevelSpec

UNLEARNED: tuple[str, ...] = ("rq-kmeans", "pq", "opq", "rq-opq", "hierarchical", "lsh", "random")


def rows_of(kind: str) -> np.ndarray:
    vectors = np.random.default_rng(3).normal(size=(2, 12)).astype(np.float32)
    return {
        "one item": vectors[:1],
        "two items": vectors,
        "sixty equal items": np.repeat(vectors[:1], 60, axis=0),
        "two items thirty times": np.tile(vectors, (30, 1)),
        "fifty-nine equal items and one": np.concatenate([np.repeat(vectors[:1], 59, axis=0), vectors[1:]]),
    }[kind]


KINDS = ["one item", "two items", "sixty equal items", "two items thirty times", "fifty-nine equal items and one"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["concat", "contrastive", "qformer"])
@pytest.mark.parametrize("whiten", [False, True])
def test_every_item_with_content_has_a_finite_vector_and_equal_items_an_equal_one(
    kind: str, method: str, whiten: bool
) -> None:
    rows = rows_of(kind)
    items = {"text": Modality(rows, np.ones(len(rows), np.bool_))}
    spec = FusionSpec(method=method, dim=8, hidden=8, epochs=1, steps=2, batch_size=8, whiten=whiten)  # type: ignore[arg-type]
    pairs = np.array([[0, len(rows) - 1]] * 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fusion = fit_fusion(items, spec, pairs)
        vectors, covered = fusion.transform(items)
    assert covered.all()
    assert np.isfinite(vectors).all()
    for one in range(len(rows)):
        assert np.array_equal(vectors[one], vectors[0]) or not np.array_equal(rows[one], rows[0])
    absent = {"text": Modality(rows, np.zeros(len(rows), np.bool_))}
    assert not fusion.transform(absent)[1].any()


@pytest.mark.parametrize("kind", [*KINDS, "sixty vectors of zeros"])
@pytest.mark.parametrize("quantizer", UNLEARNED)
def test_every_item_gets_a_sid_of_its_own_in_any_order_of_items(kind: str, quantizer: str) -> None:
    rows = np.zeros((60, 12), np.float32) if kind == "sixty vectors of zeros" else rows_of(kind)
    ids = [f"i{number}" for number in range(len(rows))]
    spec = CodebookSpec(quantizer=quantizer, levels=(LevelSpec(codes=8),) * 3)
    found = []
    for order in (np.arange(len(rows)), np.random.default_rng(0).permutation(len(rows))):
        vectors, names = {"fused": rows[order]}, [ids[at] for at in order]
        book = fit_codebook(vectors, names, spec)
        codes = assign_sids(book, vectors, names, Occupancy.empty(3)).codes
        assert (codes >= 0).all()
        assert len({tuple(each) for each in codes.tolist()}) == len(rows)
        assert np.isfinite(book.statistics["relative_error"])
        found.append(dict(zip(names, codes.tolist(), strict=True)))
    assert found[0] == found[1]
