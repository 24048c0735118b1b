"""The protocol of a training: a module, its loss, and the batches of each worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from typing import Self

    import torch
    from torch import nn


@dataclass(frozen=True)
class Cursor:
    """Position in a pass over the data: the plan's hash, the epoch, the next sample (or step) over all workers."""

    plan: str
    epoch: int = 0
    sample: int = 0


class DeviceBatch(Protocol):
    """A batch that can be moved to the device of its worker."""

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on `device`."""
        ...


B = TypeVar("B", bound=DeviceBatch)


class Trainable(Protocol[B]):
    """A model with everything a launcher needs to train it; each worker builds it with a picklable factory.

    Building it is cheap and reads no data; `batches` reads the data.
    """

    @property
    def module(self) -> nn.Module:
        """The weights; equal on all workers before the first step."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model and data as JSON. Two runs may share checkpoints only if these are equal."""
        ...

    @property
    def plan_hash(self) -> str:
        """Hash of the data and of its order; a cursor of another plan is refused."""
        ...

    def batches(self, rank: int, world: int, cursor: Cursor) -> Iterator[tuple[B, Cursor]]:
        """Yield the rest of the cursor's epoch for one worker, each batch with the cursor after it.

        Every rank yields the same number of batches. The samples of all ranks together do not depend on `world`.
        """
        ...

    def loss(self, module: nn.Module, batch: B) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return this rank's share of the step's mean loss, and sums to report.

        The shares of all ranks add up to the mean over the whole step, so ranks may hold unequal numbers of targets.
        `module` is the module to call, possibly wrapped for distributed training. The sums hold at least `loss`,
        `targets` and `tokens`, and add up over steps and ranks.
        """
        ...
