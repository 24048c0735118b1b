"""Both ways of attention for GPUs, run on the CPU, equal PyTorch's."""

from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from learning.attention import BLOCK, attend_in_parts, by_products


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 7),
    heads=st.sampled_from([(2, 2), (4, 2), (4, 1)]),
    lengths=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    kind=st.sampled_from(["all", "causal", "mask of all", "mask of each"]),
    rows=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_products_and_parts_equal_one_call_and_so_do_their_gradients(
    batch: int, heads: tuple[int, int], lengths: tuple[int, int], kind: str, rows: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    length, places = lengths if kind != "causal" else (lengths[0], lengths[0])
    query = torch.randn(batch, heads[0], length, 8, generator=draw, requires_grad=True)
    key, value = (torch.randn(batch, heads[1], places, 8, generator=draw, requires_grad=True) for _ in range(2))
    mask = None
    if kind.startswith("mask"):
        mask = torch.rand(1 if kind == "mask of all" else batch, 1, length, places, generator=draw) < 0.5
        mask[..., 0] = True
    causal, grouped = kind == "causal", heads[0] != heads[1]

    def with_gradients(made: torch.Tensor) -> list[torch.Tensor]:
        weights = torch.randn(made.shape, generator=torch.Generator().manual_seed(1))
        return [made, *torch.autograd.grad((made * weights).sum(), [query, key, value])]

    wanted = with_gradients(scaled_dot_product_attention(query, key, value, mask, 0.0, causal, enable_gqa=grouped))
    attend = partial(scaled_dot_product_attention, is_causal=causal, enable_gqa=grouped)
    most = rows * heads[0] * BLOCK * 8
    for made in (
        by_products(query, key, value, mask, 0.0, causal),
        attend_in_parts(attend, query, key, value, mask, most),
    ):
        for one, other in zip(with_gradients(made), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
