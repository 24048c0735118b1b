"""Attention of the models that are trained here, by the kernel that suits its shape.

- On a GPU, sequences of at most FEW positions are attended to by plain products. Kernels of flash attention work on
  blocks of 64 to 128 positions: for the three codes of an event they took 44 % of a training step of 273 million
  weights (H100, 2026-11-27, profile).
- cuDNN's kernels are left out. In bfloat16 PyTorch prefers them on Hopper cards. cuDNN plans its kernels anew for every
  shape, for 6 to 35 ms a call, and batches of histories change their length from step to step (63 % of a step).
- Very large batches are attended to in parts. Flash attention numbers the values of its padded gradients with 32 bits
  and writes outside its memory above 2**31.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

torch.backends.cuda.enable_cudnn_sdp(False)

FEW = 16
"""Most positions of a sequence that is attended to by plain products."""
BLOCK = 128
"""Positions to which kernels pad a sequence."""
MOST = 2**31 - 1
"""Values of padded queries that one call of a kernel may have."""


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend as PyTorch's function of this name, with boolean masks: (B, H, T, P) to (B, H, T, P)."""
    if not query.is_cuda:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, enable_gqa=enable_gqa
        )
    if max(query.shape[2], key.shape[2]) <= FEW:
        return by_products(query, key, value, attn_mask, dropout_p, is_causal)
    attend = partial(
        functional.scaled_dot_product_attention, dropout_p=dropout_p, is_causal=is_causal, enable_gqa=enable_gqa
    )
    return attend_in_parts(attend, query, key, value, attn_mask)


def by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool) -> Tensor:
    """Attend by two products of matrices. Keys and values may have fewer heads than queries."""
    group = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(group, dim=1) if group > 1 else each for each in (key, value))
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    shares = functional.dropout(scores.float().softmax(dim=-1), dropout).to(value.dtype)
    return shares @ value


def attend_in_parts(
    attend: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, most: int = MOST
) -> Tensor:
    """Attend by kernels, `attend(query, key, value, mask)`, to at most `most` values of padded queries at a time."""
    batch, heads, length, width = query.shape
    rows = max(1, most // (heads * -(-length // BLOCK) * BLOCK * width))
    if mask is not None and rows < batch:
        mask = mask.expand(batch, *mask.shape[1:])
    parts = []
    for first in range(0, batch, rows):
        part = slice(first, first + rows)
        seen = mask if mask is None or rows >= batch else mask[part]
        parts.append(attend(query[part], key[part], value[part], seen))
    return parts[0] if len(parts) == 1 else torch.cat(parts)
