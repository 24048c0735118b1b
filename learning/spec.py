"""What the loop needs to know of a training: how long, how fast, on how many workers."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]


class LoopSpec(BaseModel):
    """How a `Trainable` is trained. A recipe's `[train]` section and the settings of each fit say the same of theirs.

    `schedule` is what follows the warm-up: `inverse_sqrt`, which does not look at the number of epochs, or `cosine`,
    which falls to 0 by the last epoch; the number of steps is known after the first epoch, which stays at the peak.
    A checkpoint is written after each epoch, and after every `checkpoint_steps` steps where that is not 0. `sharding`
    spreads weights and optimizer over the workers (FSDP2); without it each has all of them (DDP).
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
