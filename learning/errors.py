"""What can go wrong while something is trained, one class per thing the caller does about it.

TrainingError
├── CheckpointMismatch      a folder that holds another training than is wanted: delete it
├── CheckpointDamaged       a checkpoint that is not whole: use an older one, or train again
├── NoRoom                  more workers than there are CPUs for: fewer of them, or a larger cluster
├── LossDiverged            the loss or its gradient is not finite: look at the events named, or lower the learning rate
└── TrainingFailed          Ray Train gave up: mend the cause and run again, it resumes
ValueError
└── TrainingDiverged        the loss or its gradient is not finite: lower the learning rate
"""

import math


class TrainingError(Exception):
    """Base of every error that training raises on purpose."""


class CheckpointMismatch(TrainingError):
    """A folder holds checkpoints of another model, data or plan than the one to be trained."""


class CheckpointDamaged(TrainingError):
    """A checkpoint directory lacks a file, or a file is not the one that its record names."""


class NoRoom(TrainingError):
    """The cluster has too few CPUs for the workers that a training asks for."""


class TrainingFailed(TrainingError):
    """Ray Train ended without a finished model after all its retries."""


class LossDiverged(TrainingError):
    """The loss of a step or its gradient is no number; weights and last checkpoint stay as they were before it.

    `loss` is that of the step, over all workers, and `event_ids` what it predicts, where that are events.
    """

    def __init__(self, loss: float, event_ids: list[str]) -> None:
        super().__init__(loss, event_ids)
        self.loss, self.event_ids = loss, event_ids

    def __str__(self) -> str:
        what = f"the loss is {self.loss}" + (" and its gradient no number" if math.isfinite(self.loss) else "")
        shown = ", ".join(self.event_ids[:20]) + (", ..." if len(self.event_ids) > 20 else "")
        events = f" that predicts the {len(self.event_ids)} events {shown}" if self.event_ids else ""
        look = ", or look at these events," if self.event_ids else ""
        return f"{what} in a step{events}; the last checkpoint is whole: lower the learning rate{look} and train again"


class TrainingDiverged(ValueError):
    """The loss of a step, or its gradient, is not finite. The weights are those before the step."""
