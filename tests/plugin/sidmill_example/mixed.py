"""A fusion method: the correction is one linear layer over all modalities, scaled by an option."""

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pipelines.fusion.methods import FusionMethod
from pipelines.spec import FusionSpec


class Options(BaseModel):
    """`scale`: factor of the correction."""

    model_config = ConfigDict(extra="forbid")

    scale: float = Field(1.0, gt=0)


class Mixed(nn.Module):
    """Linear layer over all modalities side by side, absent ones as zeros."""

    def __init__(self, spec: FusionSpec, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.scale = Options.model_validate(spec.options).scale
        self.names = sorted(widths)
        self.layers = nn.ModuleDict({name: nn.Linear(widths[name], spec.dim, bias=False) for name in self.names})
        for layer in self.layers.values():
            nn.init.zeros_(layer.weight)

    def encode(self, vectors: dict[str, Tensor]) -> Tensor:
        """Return (n, modalities, F)."""
        return torch.stack([self.layers[name](vectors[name]) for name in self.names], dim=1)

    def merge(self, encoded: Tensor, keep: Tensor) -> Tensor:
        """Return (n, F)."""
        return (encoded * keep[:, :, None]).sum(dim=1) * self.scale


METHOD = FusionMethod(Mixed, Options)
