"""Methods of fusion: what each learns beside the projection of every modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.spec import FusionSpec


class Correction(Protocol):
    """A torch module that corrects the sum of projections. It starts at zero: its last layer has zero weights."""

    def encode(self, vectors: dict[str, Tensor]) -> Tensor:
        """Return an encoding of each modality, (n, modalities, any), from vectors (n, D) by modality."""

    def merge(self, encoded: Tensor, keep: Tensor) -> Tensor:
        """Return the correction (n, F) from the modalities that `keep` (n, modalities) marks; zero without any."""


def _anything(spec: FusionSpec) -> None:
    """Accept every spec."""


@dataclass(frozen=True)
class FusionMethod:
    """A method, as the registry holds it.

    `correction` builds the module from the spec and the width of each modality; None if there is nothing to learn.
    `options` is the model of `fusion.options`. `check(spec)` raises ValueError for a spec that it cannot work by. Both
    sides of a pair are computed at once if the correction has no `randomness`, such as dropout.
    """

    correction: Callable[[FusionSpec, Mapping[str, int]], Correction] | None
    options: type[BaseModel] | None = None
    check: Callable[[FusionSpec], None] = _anything
    randomness: bool = True


def _towers(spec: FusionSpec, widths: Mapping[str, int]) -> Correction:
    from pipelines.fusion.network import Towers

    return Towers(spec, widths)


def _qformer(spec: FusionSpec, widths: Mapping[str, int]) -> Correction:
    from pipelines.fusion.network import QFormer

    return QFormer(spec, widths)


def _heads_divide(spec: FusionSpec) -> None:
    if spec.hidden % spec.heads:
        raise ValueError(
            f"qformer: hidden = {spec.hidden} must be a multiple of heads = {spec.heads}; change one of them"
        )


CONCAT = FusionMethod(None)
CONTRASTIVE = FusionMethod(_towers, randomness=False)
QFORMER = FusionMethod(_qformer, check=_heads_divide, randomness=False)
