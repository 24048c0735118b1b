"""The network of the learned quantizers: encoder, quantizer, decoder and losses.

RQ-VAE is Lee et al. (arXiv 2203.01941) as used in TIGER (arXiv 2305.05065); FSQ is Mentzer et al. (arXiv 2309.15505),
used for SIDs in RecGPT. Shapes: B items of a step, n of them this worker's, D width, d latent width, L levels, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from vector_quantize_pytorch.finite_scalar_quantization import FSQ
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from tokenizer.arrays.types import Array, Floats
from tokenizer.quantizers.vae.latent import has_fixed_grid
from tokenizer.spec import CodebookSpec

SMALLEST = 1e-100
"""Replaces 0 in the scalings of a transport plan."""


@dataclass(frozen=True)
class VaeBatch:
    """The items of a step: standardised vectors (B, D); this worker's items are the rows `own`.

    `partner` (B, C) are the collaborative vectors, with zero rows for items that have none. `draw` seeds the random
    draws of the step; `step` counts from 0.
    """

    vectors: Tensor
    partner: Tensor | None
    own: slice
    draw: int
    step: int

    def to(self, device: torch.device) -> VaeBatch:
        """Return the batch with its tensors on `device`."""
        partner = None if self.partner is None else self.partner.to(device)
        return replace(self, vectors=self.vectors.to(device), partner=partner)


class VaeNet(nn.Module):
    """Encoder, code vectors and decoder. The forward pass is the loss; `spec.seed` sets the initial weights."""

    units: Tensor

    def __init__(self, spec: CodebookSpec, scale: Floats, partner_width: int) -> None:
        """`scale` (D,) undoes the standardisation. `partner_width` is the width of collaborative vectors, or 0."""
        super().__init__()
        self.spec, self.vae = spec, spec.learned
        width = len(spec.levels) if has_fixed_grid(spec) else self.vae.latent
        share = np.square(scale.astype(np.float64))
        self.register_buffer("units", torch.from_numpy((share / share.sum()).astype(np.float32)), persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            self.encoder = _perceptron([len(scale), *self.vae.hidden, width])
            self.decoder = _perceptron([width, *reversed(self.vae.hidden), len(scale)])
            self.align = nn.Linear(width, partner_width, bias=False) if partner_width else None
        self.points = nn.ParameterList()
        self.grid: FSQ | None = None
        if has_fixed_grid(spec):
            self.grid = FSQ([level.codes for level in spec.levels], return_indices=False, preserve_symmetry=True)
        else:
            self.points.extend(nn.Parameter(torch.zeros(level.codes, width)) for level in spec.levels)
        for number, level in enumerate(spec.levels):
            # Clusters of the code vectors for the diversity loss, computed before each epoch.
            self.register_buffer(f"cluster{number}", torch.zeros(level.codes, dtype=torch.int64), persistent=False)

    def arrays(self) -> dict[str, Array]:
        """Return the arrays of a codebook: layers of encoder and decoder, and code vectors "level0" (K, d) and on."""
        found: dict[str, Array] = {}
        for part, network in (("encoder", self.encoder), ("decoder", self.decoder)):
            linear = [each for each in network.children() if isinstance(each, nn.Linear)]
            for number, layer in enumerate(linear):
                found[f"{part}.weight{number}"] = _array(layer.weight.T)
                found[f"{part}.bias{number}"] = _array(layer.bias)
        found.update({f"level{number}": _array(code_vectors) for number, code_vectors in enumerate(self.points)})
        return found

    def forward(self, batch: VaeBatch) -> Tensor:
        """Return the loss, summed over this worker's items; each item's loss is a mean over dimensions."""
        with torch.autocast(batch.vectors.device.type, enabled=False):
            own = batch.vectors[batch.own]
            latent = self.encoder(own)
            quantized, loss = self._grid(latent) if self.grid is not None else self._residual(latent, batch)
            decoded = self.decoder(quantized)
            if self.vae.reconstruction:
                loss = loss + self.vae.reconstruction * (self.units * (decoded - own).square()).sum()
            if self.vae.contrastive:
                # Undo the standardisation: a dimension is weighted by its variation.
                rows = torch.arange(len(batch.vectors), device=own.device)
                of_all = batch.vectors * self.units.sqrt()
                loss = loss + self.vae.contrastive * self._match(decoded * self.units.sqrt(), of_all, rows[batch.own])
            if self.align is not None and batch.partner is not None:
                known = batch.partner.any(dim=1)
                row = (known.cumsum(0) - 1)[batch.own][known[batch.own]]
                mine = self.align(quantized)[known[batch.own]]
                loss = loss + self.vae.alignment * self._match(mine, batch.partner[known], row)
            return loss

    def _match(self, mine_nD: Tensor, all_BD: Tensor, row_n: Tensor) -> Tensor:
        """Return InfoNCE by cosine (van den Oord et al. 2018), summed: rows of `mine` should match those of `all`."""
        near = functional.normalize(mine_nD, dim=1) @ functional.normalize(all_BD, dim=1).T
        return functional.cross_entropy(near / self.vae.temperature, row_n, reduction="sum")

    def _grid(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        assert self.grid is not None
        quantized, _ = self.grid(latent[None])
        return quantized[0], latent.new_zeros(())

    def _residual(self, latent: Tensor, batch: VaeBatch) -> tuple[Tensor, Tensor]:
        """Return the sum of code vectors with a gradient for the encoder, and the VQ and diversity losses."""
        chosen = self._even(batch) if self.vae.sinkhorn else None
        left, total, loss = latent, torch.zeros_like(latent), latent.new_zeros(())
        generator = torch.Generator().manual_seed(batch.draw)
        for level, code_vectors in enumerate(self.points):
            codes = nearest_codes(left.detach(), code_vectors) if chosen is None else chosen[:, level]
            vectors = code_vectors[codes]
            moved = (vectors - left.detach()).square().mean(dim=1).sum()
            held = (left - vectors.detach()).square().mean(dim=1).sum()
            loss = loss + (moved + self.vae.commitment * held) / len(self.points)
            if self.vae.diversity:
                loss = loss + self.vae.diversity * self._diversity(level, code_vectors, codes, generator)
            left, total = left - vectors.detach(), total + vectors.detach()
        if self.vae.gradient == "rotation":
            return rotate_to(latent, total), loss
        return latent + (total - latent).detach(), loss

    @torch.no_grad()
    def _even(self, batch: VaeBatch) -> Tensor:
        """Return codes (n, L) of this worker's items, from a transport plan over all items of the step."""
        left, chosen = self.encoder(batch.vectors), []
        for code_vectors in self.points:
            codes = even_codes(left, code_vectors, self.vae.sinkhorn, self.vae.sinkhorn_rounds)
            chosen.append(codes[batch.own])
            left = left - code_vectors[codes]
        return torch.stack(chosen, dim=1)

    def _diversity(self, level: int, code_vectors: Tensor, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of LETTER.

        A code vector should be nearer to a random one of its cluster, drawn each step, than to others.
        """
        cluster = self.get_buffer(f"cluster{level}")
        own = torch.eye(len(code_vectors), dtype=torch.bool, device=code_vectors.device)
        lot = torch.rand(len(code_vectors), len(code_vectors), generator=generator).to(code_vectors.device)
        lot = lot.masked_fill((cluster[:, None] != cluster) | own, -1.0)
        mate = lot.argmax(dim=1)
        paired = (lot.amax(dim=1) >= 0)[codes]
        near = (code_vectors @ code_vectors.T).masked_fill(own, -torch.inf)[codes[paired]]
        return functional.cross_entropy(near, mate[codes[paired]], reduction="sum")


def share_of(module: nn.Module, batch: VaeBatch) -> tuple[Tensor, Tensor, int]:
    """Return this worker's share of the mean loss of a step, its summed loss, and its number of items."""
    summed = module(batch)
    return summed / len(batch.vectors), summed.detach().double(), len(batch.vectors[batch.own])


def nearest_codes(left_nd: Tensor, points_Kd: Tensor) -> Tensor:
    """Return the nearest code vector of each row, int64 (n,)."""
    with torch.no_grad():
        return _distances(left_nd, points_Kd).argmin(dim=1)


def even_codes(left_Bd: Tensor, points_Kd: Tensor, regularisation: float, rounds: int) -> Tensor:
    """Return codes int64 (B,) by optimal transport with equal shares of the codes (Sinkhorn-Knopp, Cuturi 2013).

    `regularisation` is in units of the mean squared distance.
    """
    with torch.no_grad():
        cost = _distances(left_Bd, points_Kd).double()
        cost = (cost - cost.amin(dim=1, keepdim=True)) / (regularisation * cost.mean().clamp(min=1e-12))
        kernel = (-cost).exp()
        row = torch.ones(len(kernel), dtype=kernel.dtype, device=kernel.device)
        for _ in range(rounds):
            column = 1 / (row @ kernel).clamp(min=SMALLEST)
            row = 1 / (kernel @ column).clamp(min=SMALLEST)
        return (kernel * column).argmax(dim=1)


def _distances(left: Tensor, code_vectors: Tensor) -> Tensor:
    return left.square().sum(dim=1, keepdim=True) - 2 * left @ code_vectors.T + code_vectors.square().sum(dim=1)


def _perceptron(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _array(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), np.float32).copy()
