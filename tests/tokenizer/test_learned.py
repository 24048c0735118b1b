"""Properties of the learned quantizers alone; test_quantizers.py has those of all quantizers."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from learning.spec import LoopSpec
from tokenizer.arrays.distance import nearest
from tokenizer.arrays.executor import LOCAL_THREADS
from tokenizer.arrays.items import checked_items
from tokenizer.arrays.vectors import Items
from tokenizer.assign import Occupancy, assign_sids
from tokenizer.balancing.costs import Residual
from tokenizer.errors import CodebookDiverged
from tokenizer.fit import fit_codebook
from tokenizer.quantizers.vae.network import VaeNet, even_codes, share_of
from tokenizer.quantizers.vae.trainable import VaeTrainable
from tokenizer.quantizers.vae.training import VaeInputs, batches, build, prepare
from tokenizer.spec import CodebookSpec

Vectors = dict[str, NDArray[np.float32]]
SMALL: dict[str, Any] = {
    "hidden": (64, 32), "latent": 16, "epochs": 3, "steps": 20, "batch_size": 64, "learning_rate": 0.01
}  # fmt: skip


def spec_of(quantizer: str = "rq-vae", codes: tuple[int, ...] = (16, 16, 16), **vae: Any) -> CodebookSpec:
    learned = {"vae": {**SMALL, **vae}} if quantizer in ("rq-vae", "fsq") else {}
    return CodebookSpec.model_validate(
        {"quantizer": quantizer, "levels": [{"codes": size} for size in codes], "iterations": 5, **learned}
    )


def catalogue(items: int, clusters: int = 60, width: int = 32, rank: int = 8) -> tuple[Vectors, list[str]]:
    """Clusters in a subspace of `rank` dimensions, and noise in all; two clusters each share their behaviour."""
    draw = np.random.default_rng(7)
    centre, mix = draw.normal(size=(clusters, rank)), draw.normal(size=(rank, width)) / np.sqrt(rank)
    cluster = draw.integers(clusters, size=items)
    place = centre[cluster] + 0.3 * draw.normal(size=(items, rank))
    fused = place @ mix + 0.1 * draw.normal(size=(items, width))
    taste = draw.normal(size=(clusters // 2, 6))[cluster // 2]
    taste[::5] = 0  # items that nobody has touched yet
    vectors = {"fused": fused.astype(np.float32), "taste": taste.astype(np.float32)}
    return vectors, [f"item-{row}" for row in range(items)]


VECTORS, IDS = catalogue(600)


def training_of(spec: CodebookSpec, vectors: Vectors = VECTORS, ids: list[str] = IDS) -> VaeInputs:
    items = checked_items(vectors, ids, spec.fit_sources, LOCAL_THREADS)
    mean = vectors["fused"].mean(axis=0)
    return VaeInputs(spec, items, mean, vectors["fused"].std(axis=0))


def started(training: VaeInputs) -> VaeNet:
    net = build(training)
    prepare(net, training, 0)
    return net


def untrained(trainable: VaeTrainable, spec: LoopSpec, label: str) -> list[float]:
    prepare(trainable.module, trainable.training, 0)
    return []


def error(spec: CodebookSpec, **options: Any) -> float:
    book = fit_codebook(VECTORS, IDS, spec, **options)
    return assign_sids(book, VECTORS, IDS, Occupancy.empty(len(spec.levels))).relative_error


def test_training_beats_a_random_start_by_far_and_comes_near_rq_kmeans() -> None:
    """Relative errors measured: random start 1.005, rq-kmeans 0.112, rq-vae 0.106, fsq 0.172 (untrained 1.014)."""
    spec, fsq = spec_of(epochs=8, steps=50), spec_of("fsq", epochs=8, steps=50)
    random, trained, kmeans = error(spec, train=untrained), error(spec), error(spec_of("rq-kmeans"))
    assert trained < 0.2 * random
    assert trained < 1.2 * kmeans
    assert error(fsq) < 0.3 * error(fsq, train=untrained)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_on_a_gpu_is_as_good_as_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    there = error(spec_of(epochs=4))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert there == pytest.approx(error(spec_of(epochs=4)), rel=0.1)


PLAIN = fit_codebook(VECTORS, IDS, spec_of(epochs=2))
OPTIONS: dict[str, dict[str, Any]] = {
    "contrastive": {"contrastive": 0.5},
    "contrastive instead of reconstruction": {"contrastive": 0.5, "reconstruction": 0.0},
    "alignment": {"collaborative": "taste", "alignment": 0.5},
    "diversity": {"diversity": 0.5, "diversity_clusters": 4},
    "commitment": {"commitment": 2.0},
    "rotation": {"gradient": "rotation"},
    "sinkhorn": {"sinkhorn": 0.05},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_changes_the_codebook(name: str) -> None:
    book = fit_codebook(VECTORS, IDS, spec_of(**OPTIONS[name], epochs=2))
    assert not np.array_equal(book.arrays["level0"], PLAIN.arrays["level0"])
    assert "mean.taste" not in book.arrays
    assert assign_sids(book, VECTORS, IDS, Occupancy.empty(3)).relative_error < 0.9


def test_alignment_brings_items_of_one_behaviour_together() -> None:
    taste = VECTORS["taste"]
    same = (taste[:, None] == taste).all(axis=2) & taste.any(axis=1)

    def together(**changed: Any) -> float:
        book = fit_codebook(VECTORS, IDS, spec_of(collaborative="taste", epochs=4, steps=30, **changed))
        first = assign_sids(book, VECTORS, IDS, Occupancy.empty(3)).codes[:, 0]
        return float((first[:, None] == first)[same].mean())

    assert together(alignment=1.0, reconstruction=0.1) > together(alignment=0.0) + 0.05


def test_losses_of_two_workers_add_up_to_that_of_one() -> None:
    options = {"contrastive": 0.5, "collaborative": "taste", "diversity": 0.1, "sinkhorn": 0.05}
    training = training_of(spec_of(**options))
    net = started(training)
    whole = sum(share_of(net, batch)[0].item() for batch in batches(training, 0))
    parts = [sum(share_of(net, batch)[0].item() for batch in batches(training, 0, rank, 2)) for rank in range(2)]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("between", ["revive", "k-means"])
def test_a_dead_code_is_revived(between: str) -> None:
    training = training_of(spec_of(between=between))
    net = started(training)
    with torch.no_grad():
        net.points[0][3:6] = 1e3

    def used() -> set[int]:
        latent = training.encoded(net.arrays())(training.items.read(0, 600, np.empty((600, 0), np.int32)))
        return set(nearest(latent, net.points[0].detach().numpy()).tolist())

    assert used().isdisjoint({3, 4, 5})
    prepare(net, training, 1)
    assert used() >= {3, 4, 5}


def test_sinkhorn_spreads_a_step_evenly() -> None:
    torch.manual_seed(0)
    left, points = torch.randn(256, 4), torch.randn(8, 4)
    points[0] = 0  # nearest to most
    plain = np.bincount((torch.cdist(left, points)).argmin(dim=1).numpy(), minlength=8)
    even = np.bincount(even_codes(left, points, 0.05, 50).numpy(), minlength=8)
    assert even.max() <= 48 < plain.max()


def test_a_loss_that_is_no_number_stops_the_fit() -> None:
    with pytest.raises(
        CodebookDiverged, match=r"the loss of the codebook is (nan|inf): lower codebook.vae.learning_rate"
    ):
        fit_codebook(VECTORS, IDS, spec_of(learning_rate=1e30))


@pytest.mark.parametrize("quantizer", ["rq-vae", "fsq"])
def test_fewer_items_than_codes_and_vectors_that_are_all_the_same(quantizer: str) -> None:
    spec = spec_of(quantizer, epochs=2, steps=3)
    for vectors in (VECTORS["fused"][:5], np.ones((5, 32), np.float32)):
        book = fit_codebook({"fused": vectors}, IDS[:5], spec)
        codes = assign_sids(book, {"fused": vectors}, IDS[:5], Occupancy.empty(3)).codes
        assert len(np.unique(codes, axis=0)) == 5
        assert (codes >= 0).all()


def test_a_training_is_named_by_what_decides_its_weights() -> None:
    key = training_of(spec_of()).key
    assert key == training_of(spec_of(workers=2, refit=True)).key
    assert key != training_of(spec_of(commitment=0.5)).key
    assert key != training_of(spec_of(), {"fused": VECTORS["fused"] + 1, "taste": VECTORS["taste"]}).key


def test_a_sample_is_what_is_trained_on() -> None:
    seen: list[Items] = []

    def look(trainable: VaeTrainable, spec: LoopSpec, label: str) -> list[float]:
        seen.append(trainable.training.items)
        return untrained(trainable, spec, label)

    spec = spec_of().model_copy(update={"sample": 100})
    book = fit_codebook(VECTORS, IDS, spec, train=look)
    assert len(seen[0]) == book.statistics["items"] == 100
    assert Residual("fused", ())(seen[0].read(0, 100, np.empty((100, 0), np.int32))).shape == (100, 32)


@pytest.mark.parametrize(
    ("quantizer", "changed"),
    [
        ("rq-kmeans", {"vae": {}}),
        ("rq-vae", {"levels": [{"codes": 4, "source": "a"}, {"codes": 4, "source": "b"}]}),
        ("rq-vae", {"vae": {"collaborative": "fused"}}),
        ("rq-vae", {"vae": {"reconstruction": 0.0}}),
        ("fsq", {"vae": {"sinkhorn": 0.1}}),
        ("fsq", {"vae": {"diversity": 0.1}}),
        ("fsq", {"levels": [{"codes": 1}, {"codes": 8}]}),
    ],
)
def test_a_spec_that_cannot_be_learnt_is_refused(quantizer: str, changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CodebookSpec.model_validate({"quantizer": quantizer, "levels": [{"codes": 4}] * 2, **changed})
