"""Parts of a pass that run at once give what the plain pass gives."""

import os

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines.fusion import two_threads as module
from pipelines.fusion.two_threads import product_by_halves, run_both, runs_in_parts


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 32))


def plain(net: nn.Module, one: Tensor, other: Tensor) -> Tensor:
    return (net(one) @ net(other).T).square().mean()


def at_once(net: nn.Module, one: Tensor, other: Tensor) -> Tensor:
    (left,), (right,) = run_both(lambda: [net(one)], lambda: [net(other)], net)
    return product_by_halves(left, right).square().mean()


def gradients(net: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters())))


@pytest.mark.parametrize(("rows", "others"), [(1, 1), (1, 7), (33, 64), (128, 127)])
def test_loss_and_gradients_are_those_of_the_plain_pass(rows: int, others: int) -> None:
    net, draw = network(), torch.Generator().manual_seed(1)
    one, other = torch.randn(rows, 24, generator=draw), torch.randn(others, 24, generator=draw)
    expected, found = plain(net, one, other), at_once(net, one, other)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(net, found), gradients(net, expected))


def test_one_core_gives_the_bytes_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    net, draw = network(), torch.Generator().manual_seed(1)
    one, other = torch.randn(500, 24, generator=draw), torch.randn(333, 24, generator=draw)
    several = gradients(net, at_once(net, one, other))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(module, "_threads", lambda: pytest.fail("one core needs no threads"))
    single = gradients(net, at_once(net, one, other))
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(several, single, strict=True))


def test_a_parameter_that_no_part_or_one_part_uses_has_the_gradient_of_that() -> None:
    nets = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)])
    rows = torch.randn(5, 4)
    (left,), (right,) = run_both(lambda: [nets[0](rows)], lambda: [nets[1](rows)], nets)
    (left.sum() + 2 * right.sum()).backward()
    assert nets[2].weight.grad is None
    torch.testing.assert_close(nets[1].weight.grad, 2 * nets[0].weight.grad)


def test_an_error_of_a_part_is_raised() -> None:
    net = network()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run_both(lambda: [net(torch.ones(2, 24))], lambda: [net(torch.ones(2, 3))], net)


def test_a_pass_without_gradients_is_not_in_parts() -> None:
    assert runs_in_parts(network())
    with torch.no_grad():
        assert not runs_in_parts(network())
