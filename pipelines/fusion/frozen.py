"""A fitted fusion. The bytes of a fused vector do not depend on the other items of a call."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from learning.threads import one_thread
from pipelines.fusion.training import network
from pipelines.modalities import FusionError, Matrix, Modality, ModalityRows, items_of
from pipelines.spec import FusionSpec

if TYPE_CHECKING:
    from pipelines.fusion.network import FusionNet

BLOCK = 256
"""Rows of every matrix product: results of smaller blocks differ in their last bits."""


@dataclass(frozen=True)
class Fusion:
    """A fitted fusion: `mean.M` (D,) of each modality M and the network weights. `id` is the hash of all of it."""

    spec: FusionSpec
    arrays: Mapping[str, Matrix]
    statistics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modalities(self) -> list[str]:
        """Modalities it was fitted on."""
        return sorted(name.removeprefix("mean.") for name in self.arrays if name.startswith("mean."))

    def transform(self, items: Mapping[str, ModalityRows]) -> tuple[Matrix, NDArray[np.bool_]]:
        """Return fused vectors (N, F) and a mask of the rows with at least one known modality.

        Vectors have unit length; that of an item at the mean of all is zero. Raise FusionError if a dimension changed.
        """
        count = items_of(items)
        for name in set(items) & set(self.modalities):
            if items[name].width != len(self.arrays[f"mean.{name}"]):
                raise FusionError(
                    f"the encoder changed: {name} vectors have {items[name].width} dimensions, but the "
                    f"fusion was fitted on vectors of {len(self.arrays[f'mean.{name}'])}. Fit a new fusion with "
                    "`sidmill run backfill`, or use the encoder that the release pins."
                )
        fused, covered = np.zeros((count, self.spec.dim), np.float32), np.zeros(count, np.bool_)
        with one_thread():
            for start in range(0, count, BLOCK):
                rows = slice(start, min(start + BLOCK, count))
                fused[rows], covered[rows] = self._block({name: items[name].take(rows) for name in items})
        return fused, covered

    def _block(self, items: Mapping[str, Modality]) -> tuple[Matrix, NDArray[np.bool_]]:
        import torch

        count = items_of(items)
        keep = np.zeros((BLOCK, len(self.modalities)), np.float32)
        vectors = {}
        for at, name in enumerate(self.modalities):
            mean = self.arrays[f"mean.{name}"]
            padded = np.zeros((BLOCK, len(mean)), np.float32)
            if name in items:
                padded[:count] = items[name].directed(mean)
                keep[:count, at] = items[name].present
            vectors[name] = torch.from_numpy(padded)
        with torch.inference_mode():
            fused = self._network.merge(self._network.encode(vectors), torch.from_numpy(keep)).numpy()[:count]
        # An item at the mean of all has a zero vector, as have all items of a catalogue of equal ones; ties decide its
        # codes.
        covered: NDArray[np.bool_] = np.asarray(keep[:count].any(axis=1), np.bool_)
        return np.asarray(fused * covered[:, None], np.float32), covered

    @cached_property
    def _network(self) -> "FusionNet":
        return network(self.spec, self.arrays).eval()

    def to_bytes(self) -> bytes:
        """Return deterministic safetensors bytes with the spec in the header."""
        record = {"spec": self.spec.model_dump(mode="json"), "statistics": self.statistics}
        # A single entry: safetensors writes several in arbitrary order, and the bytes are the identity.
        header = {"fusion": json.dumps(record, sort_keys=True)}
        data: bytes = save({name: np.ascontiguousarray(self.arrays[name]) for name in sorted(self.arrays)}, header)
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> "Fusion":
        """Load a fusion from its bytes."""
        length = int.from_bytes(data[:8], "little")
        record = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["fusion"])
        return cls(FusionSpec.model_validate(record["spec"]), load(data), record["statistics"])

    @property
    def id(self) -> str:
        """Hash, 16 hex digits."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]
