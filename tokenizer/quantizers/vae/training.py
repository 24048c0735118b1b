"""Training of the learned quantizers: inputs, batches, and updates between epochs.

All random draws depend on the seed, the epoch or step, and the order of tie keys, not on item order or the number of
workers. To resume after an epoch, a training needs only weights and optimizer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from learning.threads import one_thread
from tokenizer.arrays.distance import nearest, own_distance
from tokenizer.arrays.executor import LOCAL_THREADS
from tokenizer.arrays.types import Array, Floats
from tokenizer.arrays.vectors import ArrayRows, Items
from tokenizer.balancing.costs import Residual
from tokenizer.quantizers.kmeans import balanced_kmeans
from tokenizer.quantizers.seeding import sample_size
from tokenizer.quantizers.target_vectors import TargetVectors
from tokenizer.quantizers.vae.latent import Encoded, has_fixed_grid, layers_of
from tokenizer.spec import CodebookSpec
from tokenizer.vae_spec import VaeSpec

if TYPE_CHECKING:
    from tokenizer.quantizers.vae.network import VaeBatch, VaeNet

LATENT = "latent"
"""Source name of the latents."""
START_ROUNDS = 10
"""Rounds of the initial k-means."""
FOLLOW_ROUNDS = 3
"""Rounds of k-means between epochs."""
ROOM = 1.5
"""Most sample items per code vector, relative to an even share."""
BATCH, START = 1, 2
"""Numbers of the random streams for batches and for `prepare`."""


@dataclass(frozen=True)
class VaeInputs:
    """The inputs of a training; can be pickled. `mean` and `scale` (D,) standardise the vectors of `source`.

    `partner_mean` (C,) is the mean of the collaborative vectors, if there are any.
    """

    spec: CodebookSpec
    items: Items
    mean: Floats
    scale: Floats
    partner_mean: Floats | None = None

    @property
    def vae(self) -> VaeSpec:
        """Training settings."""
        return self.spec.learned

    @property
    def source(self) -> str:
        """Name of the encoded vectors."""
        return self.spec.levels[0].source

    @property
    def batch_size(self) -> int:
        """Items per step, at most all items."""
        return min(self.vae.batch_size, len(self.items))

    @cached_property
    def key(self) -> str:
        """16 hex digits over the spec, the items and their moments, without `workers` and `refit`."""
        settings = self.spec.model_dump(mode="json", exclude={"vae": {"workers", "refit"}})
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        arrays = (self.mean, self.scale, self.partner_mean, self.items.ties[self.items.order])
        for array in (array for array in arrays if array is not None):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def encoded(self, arrays: dict[str, Array]) -> Encoded:
        """Return the latents under the encoder of `arrays`."""
        encoder = layers_of(arrays, "encoder")
        return Encoded(self.source, self.mean, self.scale, encoder, has_fixed_grid(self.spec))

    def rng(self, *about: int) -> np.random.Generator:
        """Return a separate random generator for each purpose."""
        return np.random.default_rng([self.spec.seed, *about])


def build(training: VaeInputs) -> VaeNet:
    """Return the initial network; reads no vector."""
    from tokenizer.quantizers.vae.network import VaeNet

    named = training.vae.collaborative
    return VaeNet(training.spec, training.scale, training.items.rows[named].shape[1] if named else 0)


def batches(training: VaeInputs, epoch: int, rank: int = 0, world: int = 1, first: int = 0) -> Iterator[VaeBatch]:
    """Yield the batches of an epoch from its step `first` on, with the whole step's items and this worker's rows.

    Steps run through consecutive shuffled passes over the items, independent of epochs.
    """
    import torch

    from tokenizer.quantizers.vae.network import VaeBatch

    vae, items, size = training.vae, training.items, training.batch_size
    passes: dict[int, NDArray[np.int64]] = {}
    own = slice(size * rank // world, size * (rank + 1) // world)
    nothing = np.empty((size, 0), np.int32)
    for step in range(epoch * vae.steps + first, (epoch + 1) * vae.steps):
        turns = np.arange(step * size, (step + 1) * size)
        needed = range(turns[0] // len(items), turns[-1] // len(items) + 1)
        passes = {n: passes[n] if n in passes else training.rng(BATCH, n).permutation(items.order) for n in needed}
        rows = np.concatenate([passes[n][turns[turns // len(items) == n] % len(items)] for n in needed])
        block = items.take(rows, nothing)
        vectors = torch.from_numpy((block.vectors[training.source] - training.mean) / training.scale)
        partner = torch.from_numpy(block.vectors[vae.collaborative]) if vae.collaborative else None
        yield VaeBatch(vectors, partner, own, draw=step, step=step)


def prepare(net: VaeNet, training: VaeInputs, epoch: int) -> None:
    """Update the code vectors before an epoch: a k-means of sample latents at first, then `vae.between`.

    Depends on the weights, the epoch and the items alone.
    """
    if has_fixed_grid(training.spec):
        return
    with one_thread():
        _prepare(net, training, epoch)


def _prepare(net: VaeNet, training: VaeInputs, epoch: int) -> None:
    vae, rng = training.vae, training.rng(START, epoch)
    codes = [level.codes for level in training.spec.levels]
    turns = np.sort(rng.choice(len(training.items), min(len(training.items), sample_size(max(codes))), replace=False))
    rows = training.items.order[turns]
    seen = training.items.take(rows, np.empty((len(rows), 0), np.int32))
    latent = training.encoded(net.arrays())(seen)
    if epoch == 0 or vae.between == "k-means":
        _cluster_latents(net, Items({LATENT: ArrayRows(latent)}, seen.ties), rng, anew=epoch == 0)
    elif vae.between == "revive":
        _revive(net, latent, rng)
    if vae.diversity:
        _cluster_points(net, vae.diversity_clusters, rng)


def _cluster_latents(net: VaeNet, latents: Items, rng: np.random.Generator, anew: bool) -> None:
    """Balanced k-means, level by level, from scratch or from the current code vectors; empty codes move."""
    former: list[Floats] = []
    prefix = np.empty((len(latents), 0), np.int32)
    for code_vectors in net.points:
        rounds, start = (START_ROUNDS, None) if anew else (FOLLOW_ROUNDS, code_vectors.detach().cpu().numpy().copy())
        room = math.ceil(ROOM * len(latents) / len(code_vectors))
        left = Residual(LATENT, tuple(enumerate(former)))
        vectors = TargetVectors(left, latents, prefix, LOCAL_THREADS)
        found = balanced_kmeans(vectors, len(code_vectors), room, rounds, rng, start)
        prefix = np.concatenate([prefix, found.codes[:, None]], axis=1)
        former.append(found.centroids)
        _put(code_vectors, found.centroids)


def _revive(net: VaeNet, latent: Floats, rng: np.random.Generator) -> None:
    """Move code vectors that are nearest to no sample latent to latents drawn by squared distance."""
    left = latent
    for code_vectors in net.points:
        vectors = code_vectors.detach().cpu().numpy().copy()
        codes = nearest(left, vectors)
        dead = np.flatnonzero(np.bincount(codes, minlength=len(vectors)) == 0)
        far = own_distance(left, vectors, codes)
        count = min(len(dead), int(np.count_nonzero(far)))
        if count:
            vectors[dead[:count]] = left[rng.choice(len(left), count, replace=False, p=far / far.sum())]
            _put(code_vectors, vectors)
            codes = nearest(left, vectors)
        left = left - vectors[codes]


def _cluster_points(net: VaeNet, clusters: int, rng: np.random.Generator) -> None:
    """Clusters of equal size among the code vectors of each level, for the diversity loss."""
    for number, code_vectors in enumerate(net.points):
        vectors = code_vectors.detach().cpu().numpy()
        count = min(clusters, len(vectors))
        items = Items({LATENT: ArrayRows(vectors)}, np.arange(len(vectors), dtype=np.uint64))
        targets = TargetVectors.without_codes(Residual(LATENT, ()), items, LOCAL_THREADS)
        found = balanced_kmeans(targets, count, -(-len(vectors) // count), START_ROUNDS, rng)
        _put(net.get_buffer(f"cluster{number}"), found.codes)


def _put(tensor: object, values: Array) -> None:
    import torch

    assert isinstance(tensor, torch.Tensor)
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(values)))
