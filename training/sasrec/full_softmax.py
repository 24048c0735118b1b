"""Cross-entropy over all items without storing all scores.

Scores of a few states at a time are turned into the gradient at once and discarded. So memory does not grow with states
times items (as in Liger Kernel, arXiv 2410.10989), and on a CPU the scores fit the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CPU_ROWS, GPU_ROWS = 128, 8192
"""States scored at a time."""


def cross_entropy(states: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log softmax(states items^T)[target]: states (T, D), items (N, D), targets (T,) int64 -> scalar.

    Computed in the precision of `items`, also under autocast.
    """
    with torch.autocast(states.device.type, enabled=False):
        return _CrossEntropy.apply(states.to(items.dtype), items, targets)  # type: ignore[no-any-return]


class _CrossEntropy(torch.autograd.Function):
    """Loss and gradients in one pass: d loss / d scores is softmax minus one at the target."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        to_states, to_items, loss = torch.empty_like(states), torch.zeros_like(items), states.new_zeros(())
        rows = CPU_ROWS if states.device.type == "cpu" else GPU_ROWS
        for start in range(0, len(states), rows):
            some, wanted = states[start : start + rows], targets[start : start + rows, None]
            scores = some @ items.T
            top = scores.amax(dim=1, keepdim=True)
            loss -= (scores.gather(1, wanted) - top).sum()
            weights = scores.sub_(top).exp_()
            total = weights.sum(dim=1, keepdim=True)
            loss += total.log().sum()
            slope = weights.div_(total)
            slope.scatter_add_(1, wanted, slope.new_full(wanted.shape, -1.0))
            to_states[start : start + rows] = slope @ items
            to_items.addmm_(slope.T, some)
        ctx.save_for_backward(to_states, to_items)
        return loss

    @staticmethod
    def backward(ctx: Any, *scale: Any) -> Any:
        to_states, to_items = ctx.saved_tensors
        return to_states * scale[0], to_items * scale[0], None
