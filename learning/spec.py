"""Settings of the training loop: duration, learning rate and number of workers."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]


class LoopSpec(BaseModel):
    """Training settings of a `Trainable`. A recipe's `[train]` section and each fit use the same field names.

    `schedule` follows the warm-up: `inverse_sqrt` does not depend on the number of epochs; `cosine` falls to 0 by the
    last epoch. The number of steps is known after the first epoch, so that epoch stays at the peak. A checkpoint is
    written after each epoch, and after every `checkpoint_steps` steps if that is not 0. `sharding` splits weights and
    optimizer over the workers (FSDP2); without it each worker has all of them (DDP).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: Positive = 1
    cpus_per_worker: Positive = 1
    epochs: Positive
    learning_rate: Annotated[float, Field(gt=0.0)]
    warmup_steps: Positive
    schedule: Literal["inverse_sqrt", "cosine"] = "inverse_sqrt"
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    checkpoint_steps: Annotated[int, Field(ge=0)] = 0
    sharding: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @classmethod
    def of(cls, settings: BaseModel, **others: Any) -> Self:
        """Return the settings of a fit that has fields of these names, and the `others`."""
        shared = {name: getattr(settings, name) for name in cls.model_fields if name in type(settings).model_fields}
        return cls(**{**shared, **others})
