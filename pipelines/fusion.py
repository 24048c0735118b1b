"""Fusion of the modalities of an item into one vector: fitted once, frozen, applied to every new item.

Shapes: N items, D_m dimensions of modality m, F fused dimensions. A modality an item does not have takes no part:
it is masked, never replaced by a zero vector.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from pipelines.spec import FusionSpec

Matrix = NDArray[np.float32]
BLOCK = 256  # rows of every product: GEMM results of small blocks differ in their last bits


class FusionError(ValueError):
    """A fusion cannot be fitted on, or applied to, these vectors."""


@dataclass(frozen=True)
class Modality:
    """The vectors (N, D_m) of one modality; rows where `present` (N,) is False hold nothing."""

    vectors: Matrix
    present: NDArray[np.bool_]


@dataclass(frozen=True)
class Fusion:
    """Per modality: mean and scale (D_m,), projection (D_m, F). `id` is the hash of all of it."""

    spec: FusionSpec
    arrays: Mapping[str, Matrix]
    statistics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modalities(self) -> list[str]:
        return sorted(name.removeprefix("projection.") for name in self.arrays if name.startswith("projection."))

    def to_bytes(self) -> bytes:
        """Deterministic safetensors bytes with the spec in the header."""
        record = {"spec": self.spec.model_dump(mode="json"), "statistics": self.statistics}
        # One entry: safetensors writes several in no fixed order, and the bytes are the identity.
        header = {"fusion": json.dumps(record, sort_keys=True)}
        data: bytes = save({name: np.ascontiguousarray(self.arrays[name]) for name in sorted(self.arrays)}, header)
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> "Fusion":
        length = int.from_bytes(data[:8], "little")
        record = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["fusion"])
        return cls(FusionSpec.model_validate(record["spec"]), load(data), record["statistics"])

    @property
    def id(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]

    def transform(self, items: Mapping[str, Modality]) -> tuple[Matrix, NDArray[np.bool_]]:
        """Fused vectors (N, F) of unit length and which rows have one: those with at least one known modality."""
        if not items:
            raise FusionError("no modality was given; a catalogue needs text, images or logs to be fused.")
        count = len(next(iter(items.values())).present)
        fused, covered = np.zeros((count, self._width), dtype=np.float32), np.zeros(count, dtype=bool)
        for start in range(0, count, BLOCK):
            rows = slice(start, min(start + BLOCK, count))
            fused[rows], covered[rows] = self._block({m: _padded(items[m], rows) for m in items}, rows)
        return fused, covered

    @property
    def _width(self) -> int:
        widths = [self.arrays[f"projection.{modality}"].shape[1] for modality in self.modalities]
        return sum(widths) if self.spec.method == "concat" else widths[0]

    def _block(self, items: Mapping[str, Modality], rows: slice) -> tuple[Matrix, NDArray[np.bool_]]:
        parts, covered = [], np.zeros(BLOCK, dtype=bool)
        for modality in self.modalities:
            width = self.arrays[f"projection.{modality}"].shape[1]
            if modality in items:
                given = items[modality]
                part = _unit(self._project(modality, given.vectors)) * self.spec.weights.get(modality, 1.0)
                parts.append(np.where(given.present[:, None], part, 0).astype(np.float32))
                covered |= given.present
            else:
                parts.append(np.zeros((BLOCK, width), dtype=np.float32))
        joined = np.concatenate(parts, axis=1) if self.spec.method == "concat" else np.sum(parts, axis=0)
        used = rows.stop - rows.start
        return _unit(joined)[:used], covered[:used]

    def _project(self, modality: str, vectors: Matrix) -> Matrix:
        mean, scale = self.arrays[f"mean.{modality}"], self.arrays[f"scale.{modality}"]
        if vectors.shape[1] != len(mean):
            raise FusionError(
                f"{modality} vectors have {vectors.shape[1]} dimensions, the fusion was fitted on {len(mean)}: "
                "the encoder changed. Backfill with a new fusion, or use the encoder the release pins."
            )
        standard: Matrix = np.divide(vectors - mean, scale, dtype=np.float32)
        return standard @ self.arrays[f"projection.{modality}"]


def _padded(modality: Modality, rows: slice) -> Modality:
    used = rows.stop - rows.start
    vectors = np.zeros((BLOCK, modality.vectors.shape[1]), dtype=np.float32)
    present = np.zeros(BLOCK, dtype=bool)
    vectors[:used], present[:used] = modality.vectors[rows], modality.present[rows]
    return Modality(vectors, present)


def _unit(vectors: Matrix) -> Matrix:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Matrix = (vectors / np.where(norms == 0, 1, norms)).astype(np.float32)
    return unit


def fit_fusion(items: Mapping[str, Modality], spec: FusionSpec) -> Fusion:
    """Fit a fusion on the modalities given; one with no rows is left out.

    Both methods start from standardised principal components; `contrastive` then trains the projections with
    InfoNCE (van den Oord et al. 2018) between every two modalities of the same item, so that content alone places
    an item near where its behaviour would. With one modality there is nothing to contrast: the components stay.
    """
    known = {name: items[name] for name in sorted(items) if items[name].present.any()}
    if not known:
        raise FusionError("no item has a vector in any modality; check the text fields, images and logs.")
    width = spec.dim if spec.method == "contrastive" else max(1, spec.dim // len(known))
    arrays: dict[str, Matrix] = {}
    for name, modality in known.items():
        rows = modality.vectors[modality.present]
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = np.maximum(rows.std(axis=0, dtype=np.float64), 1e-6).astype(np.float32)
        arrays[f"mean.{name}"], arrays[f"scale.{name}"] = mean, scale
        arrays[f"projection.{name}"] = _principal((rows - mean) / scale, width)
    statistics: dict[str, Any] = {"rows": {name: int(known[name].present.sum()) for name in known}}
    if spec.method == "contrastive" and len(known) > 1 and spec.steps:
        statistics["loss"] = _contrast(known, arrays, spec)
    return Fusion(spec, arrays, statistics)


def _principal(rows: Matrix, width: int) -> Matrix:
    """Leading principal directions (D, width); padded with zeros where D < width."""
    _, vectors = np.linalg.eigh(rows.T.astype(np.float64) @ rows.astype(np.float64))
    leading = vectors[:, ::-1][:, :width]
    signs = np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(leading.shape[1])])
    directions = np.zeros((rows.shape[1], width), dtype=np.float32)
    directions[:, : leading.shape[1]] = leading * np.where(signs == 0, 1, signs)
    return directions


def _contrast(items: Mapping[str, Modality], arrays: dict[str, Matrix], spec: FusionSpec) -> dict[str, float]:
    """Train the projections in place; first and last loss."""
    import torch

    torch.set_num_threads(1)  # products this small: 8 s on one thread, 156 s on two that other work disturbed
    torch.manual_seed(spec.seed)
    names = list(items)
    inputs = {
        name: torch.from_numpy((items[name].vectors - arrays[f"mean.{name}"]) / arrays[f"scale.{name}"])
        for name in names
    }
    present = {name: torch.from_numpy(items[name].present) for name in names}
    weights = {name: torch.nn.Parameter(torch.from_numpy(arrays[f"projection.{name}"].copy())) for name in names}
    optimizer = torch.optim.AdamW(weights.values(), lr=spec.learning_rate, weight_decay=1e-4)
    usable = torch.nonzero(torch.stack(list(present.values())).sum(dim=0) >= 2).flatten()
    if len(usable) < 2:
        return {}
    generator = torch.Generator().manual_seed(spec.seed)
    losses = []
    for _ in range(spec.steps):
        rows = usable[torch.randperm(len(usable), generator=generator)[: spec.batch_size]]
        loss = _info_nce(rows, inputs, present, weights, spec, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    for name in names:
        arrays[f"projection.{name}"] = weights[name].detach().numpy()
    return {"first": losses[0], "last": losses[-1]}


def _info_nce(rows: Any, inputs: Any, present: Any, weights: Any, spec: FusionSpec, generator: Any) -> Any:
    """Mean InfoNCE over every pair (modality, mean of the item's other modalities that dropout left)."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    towers = {name: normalize(inputs[name][rows] @ weights[name], dim=1) for name in weights}
    kept = {
        name: present[name][rows] & (torch.rand(len(rows), generator=generator) >= spec.modality_dropout)
        for name in weights
    }
    losses = []
    for name in weights:
        others = [other for other in weights if other != name]
        context = torch.stack([towers[other] * kept[other][:, None] for other in others]).sum(dim=0)
        both = present[name][rows] & torch.stack([kept[other] for other in others]).any(dim=0)
        if int(both.sum()) < 2:
            continue
        scores = towers[name][both] @ normalize(context[both], dim=1).T / spec.temperature
        target = torch.arange(len(scores))
        losses.append((cross_entropy(scores, target) + cross_entropy(scores.T, target)) / 2)
    return torch.stack(losses).mean() if losses else sum(weight.sum() * 0 for weight in weights.values())
