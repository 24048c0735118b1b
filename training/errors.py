"""Errors of a generator beyond `learning.errors`, one class for each action of the caller.

TrainingError
├── VocabularyMismatch      the model is for another codebook: train one for it, or publish without a model
├── NothingToTrainOn        the log or codes of a release teach nothing: give it a log, or another codebook
├── HeldOutEventsSeen       the model has seen held-out events: use another model, or a release with a later cutoff
├── NoReference             a preference has no model to start from: name one
└── SequencesInvalid        rows break the contract of the `sequences` table: rebuild the sequences
"""

from learning.errors import TrainingError


class VocabularyMismatch(TrainingError):
    """A model was requested for another vocabulary than the one it was trained for."""

    def __init__(self, where: str, found: str, wanted: str) -> None:
        super().__init__(where, found, wanted)
        self.where, self.found, self.wanted = where, found, wanted

    def __str__(self) -> str:
        return (
            f"{self.where}: the model was trained for vocabulary {self.found}, but the release needs {self.wanted}; "
            "train a model for this codebook with `sidmill run train --release RELEASE`, or use none"
        )


class NothingToTrainOn(TrainingError):
    """The log of a release holds no event that a model could learn from, or its codes have no order."""


class HeldOutEventsSeen(TrainingError):
    """A model has learnt from events that a release holds out for evaluation."""


class NoReference(TrainingError):
    """The objective compares with the model that a training starts from, and it starts from none."""


class SequencesInvalid(TrainingError):
    """Rows of the `sequences` table break their contract (order, code count, code range)."""
