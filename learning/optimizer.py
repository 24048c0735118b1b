"""The optimizer step of every training loop, in this process or on Ray Train."""

import math

import torch
from torch import Tensor, nn

from learning.errors import StepNotFinite

GRADIENT_NORM = 1.0
"""Gradients with a larger norm are scaled down to it."""
MAX_RATE = 1e37
"""AdamW divides the rate of its first step by 1 - 0.9, and float32 ends at 3.4e38."""


def adamw(module: nn.Module, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW. Weights of linear layers decay; biases, embeddings, norms and code vectors do not."""
    linear = {id(part.weight) for part in module.modules() if isinstance(part, nn.Linear)}
    groups = [
        {"params": [p for p in module.parameters() if id(p) in linear], "weight_decay": weight_decay},
        {"params": [p for p in module.parameters() if id(p) not in linear], "weight_decay": 0.0},
    ]
    # On a GPU one kernel updates all weights. On a CPU the bytes of that kernel would differ from those of before.
    fused = True if any(weights.is_cuda for weights in module.parameters()) else None
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=fused)


def learning_rate(peak: float, warmup: int, step: int) -> float:
    """Linear warm-up, then inverse square root of the step (TIGER, arXiv 2305.05065).

    It does not depend on the number of epochs, so a run with more epochs continues as if it always had them.
    """
    warmed = (step + 1) / warmup
    return peak * min(warmed, 1.0 / math.sqrt(warmed))


def take_step(module: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """Take one step down the gradient of `loss` at the given rate, with the gradient norm clipped.

    Raises StepNotFinite on all workers, with the weights unchanged, when the loss of any worker or the norm of their
    averaged gradient is not finite.
    """
    if rate > MAX_RATE:
        raise StepNotFinite(f"the learning rate {rate} is too large for float32; lower it")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    # A loss that is not finite makes all gradients NaN, so the norm informs every worker without another message.
    torch.autograd.backward(loss, 1 + 0 * loss.detach())
    norm = nn.utils.clip_grad_norm_(module.parameters(), GRADIENT_NORM)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # sharded weights
    if not math.isfinite(norm.item()):
        raise StepNotFinite(f"the norm of the gradient is {norm.item()}, which is not finite; lower the learning rate")
    optimizer.step()
