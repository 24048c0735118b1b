"""Parts of a network's pass on two threads, with the same bytes on any number of cores.

Frameworks split each product among threads. The order of its sums, and so their last bits, change with the number of
threads. Here the parts are the same on any machine, and each runs on one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

R = TypeVar("R")
PassPart = Callable[[], Sequence[Tensor]]
"""A part of a pass. It uses the parameters that it is given with, and draws no random numbers."""


def runs_in_parts(module: nn.Module) -> bool:
    """Return whether a pass of the module is computed in parts: in training, on a CPU."""
    return torch.is_grad_enabled() and all(each.device.type == "cpu" for each in module.parameters())


def run_both(first: PassPart, second: PassPart, module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the results of two parts. Both, and their gradients for the parameters of `module`, run in parallel."""
    lengths: list[int] = []
    found = list(_Parts.apply((first, second), lengths, *module.parameters()))
    return found[: lengths[0]], found[lengths[0] :]


def product_by_halves(left: Tensor, right: Tensor) -> Tensor:
    """Return `left @ right.T` for (N, D) and (M, D), by halves of the rows, as are the gradients."""
    found: Tensor = _Product.apply(left, right)
    return found


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, "side-by-side", initializer=partial(torch.set_num_threads, 1))


def _at_once(calls: Iterable[Callable[[], R]]) -> list[R]:
    if len(os.sched_getaffinity(0)) == 1:
        return [call() for call in calls]
    return list(_threads().map(lambda call: call(), calls))


class _Parts(torch.autograd.Function):
    """Parts whose own graphs are kept until the gradients of their results are known."""

    @staticmethod
    def forward(ctx: Any, parts: Sequence[PassPart], lengths: list[int], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.parameters, ctx.results = parameters, _at_once(partial(_recorded, part) for part in parts)
        lengths += map(len, ctx.results)
        return tuple(result.detach() for results in ctx.results for result in results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rest = iter(gradients)
        calls = [
            partial(torch.autograd.grad, results, ctx.parameters, [next(rest) for _ in results], allow_unused=True)
            for results in ctx.results
        ]
        ctx.results = None
        return (None, None, *(_sum(pair) for pair in zip(*_at_once(calls), strict=True)))


class _Product(torch.autograd.Function):
    """A product by halves of its rows."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        return _by_halves([(left, right.T)])[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        left, right = ctx.saved_tensors
        of_left, of_right = _by_halves([(gradient, right), (gradient.T, left)])
        return of_left, of_right


def _recorded(part: PassPart) -> Sequence[Tensor]:
    with torch.enable_grad():
        return part()


def _sum(gradients: Iterable[Tensor | None]) -> Tensor | None:
    known = [each for each in gradients if each is not None]
    return known[0] + known[1] if len(known) == 2 else known[0] if known else None


def _by_halves(products: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Return the product of each pair, computed by halves of the rows of the first."""
    halves = [(half, other) for one, other in products for half in one.tensor_split(2)]
    found = _at_once(partial(torch.matmul, *pair) for pair in halves)
    return [torch.cat(found[at : at + 2]) for at in range(0, len(found), 2)]
