"""The losses of learned quantizers, item by item in plain loops: value and gradient of every weight."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tokenizer.arrays.executor import LOCAL_THREADS
from tokenizer.arrays.items import checked_items
from tokenizer.quantizers.vae.network import VaeBatch, VaeNet
from tokenizer.quantizers.vae.training import VaeInputs, batches, build, prepare
from tokenizer.spec import CodebookSpec

SMALL: dict[str, Any] = {"hidden": (12,), "latent": 5, "epochs": 1, "steps": 1, "batch_size": 14, "warmup_steps": 1}
LOSSES: dict[str, dict[str, Any]] = {
    "reconstruction and commitment": {"reconstruction": 0.7, "commitment": 0.4},
    "contrastive (CoST)": {"contrastive": 0.5, "temperature": 0.3},
    "alignment (LETTER)": {"collaborative": "taste", "alignment": 0.6, "temperature": 0.4},
    "diversity (LETTER)": {"diversity": 0.8, "diversity_clusters": 3},
    "rotation": {"gradient": "rotation"},
}


def started(**vae: Any) -> tuple[VaeNet, VaeBatch]:
    """A network whose code vectors lie among the latents, and a step of which this worker has rows 4 to 11."""
    draw = np.random.default_rng(0)
    vectors = {
        "fused": (draw.normal(size=(40, 8)) * np.linspace(0.2, 2, 8)).astype(np.float32),
        "taste": draw.normal(size=(40, 3)).astype(np.float32),
    }
    vectors["taste"][::3] = 0
    levels = [{"codes": 7}, {"codes": 4}]
    spec = CodebookSpec.model_validate({"quantizer": "rq-vae", "levels": levels, "vae": {**SMALL, **vae}})
    items = checked_items(vectors, [f"i{row}" for row in range(40)], spec.fit_sources, LOCAL_THREADS)
    training = VaeInputs(spec, items, vectors["fused"].mean(axis=0), vectors["fused"].std(axis=0))
    net = build(training)
    prepare(net, training, 0)
    batch = next(batches(training, 0))
    return net, VaeBatch(batch.vectors, batch.partner, slice(4, 11), batch.draw, batch.step)


def info_nce(mine: Tensor, candidates: list[Tensor], right: int, temperature: float) -> Tensor:
    near = torch.stack([functional.cosine_similarity(mine, other, dim=0) for other in candidates]) / temperature
    return near.logsumexp(dim=0) - near[right]


def turned(latent: Tensor, total: Tensor) -> Tensor:
    """The latent, by two reflections and a stretch that have no gradient of their own, where the code vectors are."""
    start, end = functional.normalize(latent.detach(), dim=0), functional.normalize(total, dim=0)
    between = functional.normalize(start + end, dim=0)
    first, second = (torch.eye(len(latent)) - 2 * torch.outer(each, each) for each in (start, between))
    return total.norm() / latent.detach().norm() * (second @ first @ latent)


def by_hand(net: VaeNet, batch: VaeBatch) -> Tensor:
    """The loss of this worker's items, one after the other."""
    vae, loss = net.vae, torch.zeros(())
    generator = torch.Generator().manual_seed(batch.draw)
    lots = [torch.rand(len(points), len(points), generator=generator).tolist() for points in net.points]
    known = [] if batch.partner is None else [row for row, taste in enumerate(batch.partner) if taste.any()]
    for row in range(batch.own.start, batch.own.stop):
        vector = batch.vectors[row]
        latent = net.encoder(vector)
        left, total = latent, torch.zeros_like(latent)
        for level, points in enumerate(net.points):
            code = min(range(len(points)), key=[(left - point).square().sum().item() for point in points].__getitem__)
            point, fixed = points[code], points[code].detach()
            drawn = (point - left.detach()).square().mean()
            held = (left - fixed).square().mean()
            loss = loss + (drawn + vae.commitment * held) / len(net.points)
            cluster = net.get_buffer(f"cluster{level}").tolist()
            mates = [other for other in range(len(points)) if other != code and cluster[other] == cluster[code]]
            if vae.diversity and mates:
                mate = max(mates, key=lots[level][code].__getitem__)
                others = torch.stack([point @ points[other] for other in range(len(points)) if other != code])
                loss = loss + vae.diversity * (others.logsumexp(dim=0) - point @ points[mate])
            left, total = left - fixed, total + fixed
        quantized = turned(latent, total) if vae.gradient == "rotation" else latent + (total - latent).detach()
        decoded = net.decoder(quantized)
        loss = loss + vae.reconstruction * (net.units * (decoded - vector).square()).sum()
        if vae.contrastive:
            scale = net.units.sqrt()
            of_all = [scale * other for other in batch.vectors]
            loss = loss + vae.contrastive * info_nce(scale * decoded, of_all, row, vae.temperature)
        if batch.partner is not None and net.align is not None and row in known:
            partners = [batch.partner[other] for other in known]
            loss = loss + vae.alignment * info_nce(net.align(quantized), partners, known.index(row), vae.temperature)
    return loss


def gradients(net: VaeNet, loss: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    torch.autograd.backward(loss)
    return {name: weight.grad.clone() for name, weight in net.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_that_of_plain_loops_in_value_and_in_every_gradient(name: str) -> None:
    net, batch = started(**LOSSES[name])
    found, expected = net(batch), by_hand(net, batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    mine, theirs = gradients(net, net(batch)), gradients(net, by_hand(net, batch))
    assert mine.keys() == theirs.keys() == {name for name, _ in net.named_parameters()}
    for part, gradient in theirs.items():
        torch.testing.assert_close(mine[part], gradient, rtol=1e-3, atol=1e-5, msg=part)
        assert gradient.any()


@pytest.mark.parametrize("name", ["contrastive (CoST)", "alignment (LETTER)", "diversity (LETTER)", "rotation"])
def test_each_part_has_a_gradient_that_is_not_lost_in_the_others(name: str) -> None:
    """So that the comparison above says something of it."""
    plain = {key: value for key, value in LOSSES[name].items() if key == "collaborative"}
    with_it, without = (started(**options) for options in (LOSSES[name], {**plain, "alignment": 0.0}))
    after, before = (gradients(net, net(batch)) for net, batch in (with_it, without))
    part = "points.0" if name.startswith("diversity") else "encoder.0.weight"
    assert (after[part] - before[part]).abs().max() > 1e-2 * before[part].abs().max()
