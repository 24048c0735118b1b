"""What can go wrong in training, one class per thing the caller does about it.

TrainingError
├── VocabularyMismatch      another codebook than the model speaks: train for it, or publish without a model
├── CheckpointMismatch      a folder that holds another training than is wanted: delete it
├── CheckpointDamaged       a checkpoint that is not whole: use an older one, or train again
├── NothingToTrainOn        a release whose log or codes teach nothing: give it a log, or another codebook
├── LearntWhatIsHeldOut     a model that knows what a release asks for: another model, or a release with a later cutoff
├── SequencesInvalid        rows that break the contract of the `sequences` table: rebuild the sequences
├── NoRoom                  more workers than there are CPUs for: fewer of them, or a larger cluster
├── LossDiverged            the loss or its gradient is no number: look at the events named, or lower the learning rate
└── TrainingFailed          Ray Train gave up: mend the cause and run again, it resumes
"""

import math


class TrainingError(Exception):
    """Base of every error that training raises on purpose."""


class VocabularyMismatch(TrainingError):
    """A model was asked to speak another vocabulary than the one it was trained for."""

    def __init__(self, where: str, found: str, wanted: str) -> None:
        super().__init__(where, found, wanted)
        self.where, self.found, self.wanted = where, found, wanted

    def __str__(self) -> str:
        return (
            f"{self.where}: the model speaks vocabulary {self.found}, the release needs {self.wanted}; "
            "take a model trained for this codebook (`sidmill run train --release RELEASE` trains one), or none"
        )


class CheckpointMismatch(TrainingError):
    """A folder holds checkpoints of another model, data or plan than the one to be trained."""


class CheckpointDamaged(TrainingError):
    """A checkpoint directory lacks a file, or a file is not the one that its record names."""


class NothingToTrainOn(TrainingError):
    """The log of a release holds no event that a model could learn from, or its codes have no order."""


class LearntWhatIsHeldOut(TrainingError):
    """A model has learnt from events that a release holds out to ask about."""


class SequencesInvalid(TrainingError):
    """Rows of the `sequences` table break their contract (order, code count, code range)."""


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
