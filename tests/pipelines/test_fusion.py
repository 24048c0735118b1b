"""Fusion masks what is missing, ignores batch and order, and learns what users take together."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from learning.spec import LoopSpec
from learning.trainable import Cursor
from learning.trainer import train_in_process
from pipelines.fusion.fit import fit_fusion
from pipelines.fusion.frozen import Fusion
from pipelines.fusion.fuse import input_hashes
from pipelines.fusion.training import FusionTraining
from pipelines.modalities import FusionError, Modality, mean_of
from pipelines.spec import FusionSpec


def modalities(items: int = 60, seed: int = 0) -> dict[str, Modality]:
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((items, 6)).astype(np.float32)
    made = {}
    for name, width, share in (("text", 12, 1.0), ("image", 8, 0.8), ("collaborative", 5, 0.6)):
        vectors = hidden @ rng.standard_normal((6, width)).astype(np.float32)
        made[name] = Modality(vectors.astype(np.float32), rng.random(items) < share)
    return made


def take(given_modalities: dict[str, Modality], rows: list[int]) -> dict[str, Modality]:
    return {name: Modality(each.vectors[rows], each.present[rows]) for name, each in given_modalities.items()}


METHODS = ["concat", "contrastive", "qformer"]


def small(method: str = "contrastive", **changed: object) -> FusionSpec:
    settings = {"dim": 16, "hidden": 16, "heads": 2, "epochs": 2, "steps": 10, "batch_size": 64, **changed}
    return FusionSpec.model_validate({"method": method, **settings})


def random_pairs(items: int = 60, count: int = 300) -> NDArray[np.int64]:
    return np.random.default_rng(5).integers(items, size=(count, 2))


@pytest.mark.parametrize("method", METHODS)
def test_the_fused_vector_of_an_item_does_not_depend_on_batch_or_order(method: str) -> None:
    items = modalities()
    fusion = fit_fusion(items, small(method), random_pairs())
    whole, _ = fusion.transform(items)
    for rows in ([5], [3, 1, 2], list(range(59, -1, -1))):
        part, _ = fusion.transform(take(items, rows))
        assert part.tobytes() == whole[rows].tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_modality_is_masked_whatever_lies_in_its_row(method: str) -> None:
    """In training as in use: neither the fit nor the vectors know what lies where nothing is."""
    fits = []
    for filling in (1e6, np.nan):
        items = modalities()
        for each in items.values():
            each.vectors[~each.present] = filling
        fusion = fit_fusion(items, small(method, align=0.5), random_pairs())
        fits.append((fusion.to_bytes(), fusion.transform(items)))
    (one, (vectors, covered)), (other, (again, _)) = fits
    assert one == other
    assert vectors.tobytes() == again.tobytes()
    assert covered.tolist() == np.any([each.present for each in items.values()], axis=0).tolist()
    assert np.allclose(np.linalg.norm(vectors[covered], axis=1), 1, atol=1e-5)
    assert not vectors[~covered].any()


@pytest.mark.parametrize("method", ["contrastive", "qformer"])
def test_training_starts_where_concat_ends(method: str) -> None:
    items = modalities()
    plain, _ = fit_fusion(items, small("concat")).transform(items)
    start, _ = fit_fusion(items, small(method, epochs=0), random_pairs()).transform(items)
    trained, _ = fit_fusion(items, small(method), random_pairs()).transform(items)
    np.testing.assert_allclose(start, plain, atol=1e-6)
    assert np.abs(trained - plain).max() > 0.01


def test_concat_keeps_the_cosines_of_what_it_puts_side_by_side() -> None:
    """With as many dimensions as there are, the cosine is the weighted mean of those of the modalities."""
    items = {name: Modality(each.vectors, np.ones(60, np.bool_)) for name, each in modalities().items()}
    fused, _ = fit_fusion(items, small("concat", dim=25, weights={"text": 2.0})).transform(items)
    parts, whole = [], 0.0
    for name, each in items.items():
        unit = each.directed(each.vectors.mean(axis=0))
        unit = (unit - unit.mean(axis=0)) * (2.0 if name == "text" else 1.0)
        parts.append(unit @ unit.T)
        whole = whole + np.square(np.linalg.norm(unit, axis=1))
    np.testing.assert_allclose(fused @ fused.T, sum(parts) / np.sqrt(np.outer(whole, whole)), atol=1e-5)


def test_whitened_modalities_vary_alike_in_all_their_directions_and_weigh_what_they_did() -> None:
    """The Mahalanobis product of each modality by hand, scaled to its variance; a dimension without any stays out."""
    items = {name: Modality(each.vectors, np.ones(60, np.bool_)) for name, each in modalities().items()}
    text = np.concatenate([items["text"].vectors, np.zeros((60, 3), np.float32)], axis=1)
    items["text"] = Modality(text, np.ones(60, np.bool_))
    spec = small("concat", dim=28, whiten=True, weights={"text": 2.0})
    fused, _ = fit_fusion(items, spec).transform(items)
    parts: list[NDArray[np.float64]] = []
    for name, each in items.items():
        unit = each.directed(each.vectors.mean(axis=0)).astype(np.float64)
        unit = unit - unit.mean(axis=0)
        covariance = unit.T @ unit / 60
        rank = np.linalg.matrix_rank(covariance, tol=1e-9)
        product = unit @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ unit.T
        parts.append(product * np.trace(covariance) / rank * (4.0 if name == "text" else 1.0))
    whole = np.sqrt(sum(part.diagonal() for part in parts))
    np.testing.assert_allclose(fused @ fused.T, sum(parts) / np.outer(whole, whole), atol=1e-3)


@pytest.mark.parametrize("method", ["contrastive", "qformer"])
def test_fitting_twice_gives_the_same_bytes_another_seed_others_and_it_learns(method: str) -> None:
    items, pairs = modalities(400), random_pairs(400)
    one, two = (fit_fusion(items, small(method), pairs) for _ in range(2))
    assert one.to_bytes() == two.to_bytes()
    assert fit_fusion(items, small(method, seed=1), pairs).id != one.id
    assert Fusion.from_bytes(one.to_bytes()).id == one.id
    longer = fit_fusion(items, small(method, epochs=8, learning_rate=1e-2), pairs)
    assert longer.statistics["loss"][-1] < longer.statistics["loss"][0] - 0.1


@pytest.mark.parametrize("method", ["contrastive", "qformer"])
@pytest.mark.parametrize(("align", "hard"), [(0.0, False), (0.5, False), (0.5, True)])
def test_the_shares_of_workers_add_up_to_the_loss_and_gradient_of_one(method: str, align: float, hard: bool) -> None:
    items, pairs = modalities(), random_pairs()
    spec = small(method, align=align, hard_negatives=hard)
    training = training_of(items, spec, pairs)
    net = training.module
    sums: list[tuple[float, dict[str, torch.Tensor]]] = []
    for world in (1, 3):
        net.zero_grad()
        shares = [training.loss(net, next(training.batches(rank, world, Cursor("", 1)))[0])[0] for rank in range(world)]
        torch.stack(shares).sum().backward()
        gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        sums.append((float(torch.stack(shares).sum().detach()), gradients))
    (one, alone), (three, together) = sums
    assert one == pytest.approx(three, rel=1e-5)
    assert alone.keys() == together.keys()
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, atol=1e-5, rtol=1e-3)


def training_of(items: dict[str, Modality], spec: FusionSpec, pairs: NDArray[np.int64]) -> FusionTraining:
    caught: list[FusionTraining] = []

    def catch(training: Any, spec: LoopSpec, label: str) -> list[float]:
        caught.append(training)
        return train_in_process(training, spec, label)

    fit_fusion(items, spec, pairs, train=catch)
    return replace(caught[0])


@pytest.mark.parametrize("hard", [False, True])
def test_the_loss_is_that_of_a_loop_over_pairs(hard: bool) -> None:
    """InfoNCE by hand: other items of the step, less the log of how often they are drawn, none that is the pair's."""
    items, pairs = modalities(20), random_pairs(20)
    training = training_of(items, small(popularity=0.7, hard_negatives=hard), pairs)
    net = training.module
    (step, _) = next(training.batches(0, 1, Cursor("", 0)))
    with torch.no_grad():
        left = net.merge(net.encode(step.left), step.keep_left).numpy()
        right = net.merge(net.encode(step.right), step.keep_right).numpy()
        found = float(training.loss(net, step)[0])
        scale = float(net.log_scale.exp())
    drawn = np.random.default_rng([0, 0])
    chosen = training.pairs[drawn.integers(len(training.pairs), size=20)]
    columns = [other for _, other in chosen] + (training._hard_negatives(chosen[:, 0], drawn).tolist() if hard else [])
    often = np.bincount(training.pairs[:, 1], minlength=20) + 1.0
    total = 0.0
    for row, (one, two) in enumerate(chosen):
        scores = []
        for column, other in enumerate(columns):
            if column == row or other not in (one, two):
                scores.append(left[row] @ right[column] * scale - 0.7 * np.log(often[other] / often.sum()))
            if column == row:
                own = scores[-1]
        total += np.log(np.exp(scores).sum()) - own
    assert found == pytest.approx(total / 20, rel=1e-4)


def test_a_hard_negative_is_the_nearest_item_drawn_that_is_neither_the_item_nor_its_pair() -> None:
    items, pairs = modalities(400), random_pairs(400, 600)
    training = training_of(items, small(hard_negatives=True), pairs)
    start = training._at_start
    left = training.pairs[:30, 0]
    found = training._hard_negatives(left, np.random.default_rng(7))
    drawn = training.pairs[np.random.default_rng(7).integers(len(training.pairs), size=4 * 30), 1]
    partners = {(one, other) for one, other in training.pairs.tolist()}
    for one, hard in zip(left.tolist(), found.tolist(), strict=True):
        free = [other for other in set(drawn.tolist()) if other != one and (one, other) not in partners]
        assert hard == max(free, key=lambda other: float(start[one] @ start[other]))


def test_what_users_take_together_ends_up_near_also_by_content_alone() -> None:
    """Pairs follow a hidden trait that text shows weakly: cold items, text alone, rank their partners better."""
    rng = np.random.default_rng(0)
    trait = rng.integers(40, size=600)
    shown = rng.standard_normal((40, 6))[trait]
    text = np.concatenate([shown + 0.5 * rng.standard_normal((600, 6)), 2 * rng.standard_normal((600, 18))], axis=1)
    behaviour = rng.standard_normal((40, 8))[trait] + 0.3 * rng.standard_normal((600, 8))
    warm = np.arange(600) < 500
    items = {
        "text": Modality(text.astype(np.float32), np.ones(600, np.bool_)),
        "collaborative": Modality(behaviour.astype(np.float32), warm),
    }
    known = rng.integers(500, size=(40_000, 2))
    pairs = known[(trait[known[:, 0]] == trait[known[:, 1]]) & (known[:, 0] != known[:, 1])]

    def hits(method: str) -> float:
        fused, _ = fit_fusion(items, small(method, epochs=6, steps=50, batch_size=256), pairs).transform(items)
        nearest = np.argsort(-(fused[500:] @ fused[:500].T), axis=1)[:, :10]
        return float((trait[nearest] == trait[500:, None]).mean())

    assert hits("contrastive") > 2 * hits("concat")
    assert hits("qformer") > 1.5 * hits("concat")


@pytest.mark.parametrize("method", ["contrastive", "qformer"])
def test_training_sees_behaviour_as_it_was_before_the_pairs_and_content_as_it_is(method: str) -> None:
    now, pairs, seen = modalities(), random_pairs(), list[FusionTraining]()
    earlier = modalities(seed=1)["collaborative"]

    def noted(training: Any, spec: LoopSpec, label: str) -> list[float]:
        seen.append(training)
        return train_in_process(training, spec, label)

    made = fit_fusion(now, small(method), pairs, {"collaborative": earlier}, noted)
    (training,) = seen
    for name, each in {**now, "collaborative": earlier}.items():
        np.testing.assert_array_equal(training.directed[name][:], each.directed(mean_of(now[name])))
        np.testing.assert_array_equal(training.present[name], each.present)
    there = np.any([now["text"].present, now["image"].present, earlier.present], axis=0)
    np.testing.assert_array_equal(training.pairs, pairs[there[pairs].all(axis=1)])
    assert made.to_bytes() != fit_fusion(now, small(method), pairs).to_bytes()


def test_an_item_known_by_its_later_behaviour_alone_is_no_pair_to_learn_from() -> None:
    """Its only behaviour is the pairs to learn, so training would memorise them."""
    behaviour = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    now = {"collaborative": Modality(behaviour, np.ones(4, np.bool_))}
    before = {"collaborative": Modality(behaviour, np.array([True, True, False, False]))}
    made = fit_fusion(now, small(), np.array([[0, 1], [0, 2], [2, 3]]), before)
    assert made.statistics["pairs"] == 1


def test_without_pairs_an_item_learns_from_its_own_modalities() -> None:
    """Content alone, fused, ranks its item's behaviour vector better after training than before."""
    items = modalities(300)
    shown = {"text": items["text"], "collaborative": Modality(items["collaborative"].vectors, np.ones(300, bool))}

    def rank_share(fusion: Fusion) -> float:
        content, _ = fusion.transform({"text": shown["text"]})
        behaviour, _ = fusion.transform({"collaborative": shown["collaborative"]})
        return float((np.argsort(-content @ behaviour.T, axis=1)[:, :5] == np.arange(300)[:, None]).any(axis=1).mean())

    trained = fit_fusion(shown, small(epochs=4, steps=50, learning_rate=1e-2))
    assert rank_share(trained) > 2 * rank_share(fit_fusion(shown, small(epochs=0)))


def test_heads_that_do_not_divide_the_tokens_are_refused_for_qformer_only() -> None:
    with pytest.raises(ValueError, match="hidden = 30 must be a multiple of heads = 4"):
        small("qformer", hidden=30, heads=4)
    assert small("contrastive", hidden=30, heads=4).hidden == 30


def test_one_modality_needs_no_training_and_none_is_refused() -> None:
    only = {"text": modalities()["text"]}
    vectors, covered = fit_fusion(only, small(dim=8)).transform(only)
    assert covered.all()
    assert vectors.shape == (60, 8)
    with pytest.raises(FusionError, match="no item"):
        fit_fusion({}, FusionSpec())
    with pytest.raises(FusionError, match="dimensions"):
        fit_fusion(only, small()).transform({"text": Modality(np.ones((1, 3), np.float32), np.ones(1, bool))})


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.none() | st.sampled_from(["text:a", "image:b", "x"])] * 3), max_size=6),
    width=st.integers(0, 3),
)
def test_the_hash_of_an_item_is_that_of_its_inputs_written_out(rows: list[tuple[str | None, ...]], width: int) -> None:
    cut = [row[:width] for row in rows]
    frame = pl.DataFrame(cut, schema={f"m{at}": pl.String for at in range(width)}, orient="row")
    written = [hashlib.blake2b("\0".join(filter(None, row)).encode(), digest_size=16).hexdigest() for row in cut]
    assert input_hashes(frame, len(cut)).to_list() == written
