"""Errors of training, one class for each action of the caller.

TrainingError
├── CheckpointMismatch  the folder holds another training: delete it
├── CheckpointDamaged   the checkpoint is incomplete or altered: use an older one, or train again
├── NotEnoughCpus       the workers need more CPUs than there are: use fewer workers, or a larger cluster
├── LossDiverged        a training diverged: look at the events named, or lower the learning rate
└── TrainingFailed      Ray Train gave up: fix the cause and run again, it resumes
ValueError
└── StepNotFinite       one step cannot be taken: the loop raises LossDiverged from it
"""

import math


class TrainingError(Exception):
    """Base of every error that training raises on purpose."""


class CheckpointMismatch(TrainingError):
    """A folder holds checkpoints of another model, data or plan than the training needs."""


class CheckpointDamaged(TrainingError):
    """A checkpoint directory lacks a file, or a file does not match the record."""


class NotEnoughCpus(TrainingError):
    """The cluster has too few CPUs for the workers of a training."""


class TrainingFailed(TrainingError):
    """Ray Train ended without a finished model after all its retries."""


class LossDiverged(TrainingError):
    """The loss of a step or its gradient is not finite. Weights and last checkpoint stay as before the step.

    `loss` is the loss of the step over all workers. `event_ids` are the events it predicts, if it predicts events.
    """

    def __init__(self, loss: float, event_ids: list[str]) -> None:
        super().__init__(loss, event_ids)
        self.loss, self.event_ids = loss, event_ids

    def __str__(self) -> str:
        gradient = ", and its gradient is not finite (NaN or infinity)" if math.isfinite(self.loss) else ""
        shown = ", ".join(self.event_ids[:20]) + (", ..." if len(self.event_ids) > 20 else "")
        events = f" that predicts {len(self.event_ids)} events ({shown})" if self.event_ids else ""
        check = " or check these events" if self.event_ids else ""
        return (
            f"the loss is {self.loss} in a step{events}{gradient}. The step was not taken, and the last checkpoint is "
            f"intact. Lower the learning rate{check}, then train again"
        )


class StepNotFinite(ValueError):
    """The loss of a step or its gradient is not finite, or float32 cannot hold its learning rate.

    The weights are those before the step. The loop of a training raises LossDiverged from it, with the loss and the
    events of the step.
    """
