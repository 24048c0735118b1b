"""Loading of a generator from its checkpoint."""

from __future__ import annotations

from pathlib import Path

from learning.checkpoint import WEIGHTS, CheckpointRecord, load_weights, read_record
from training.errors import VocabularyMismatch
from training.models import build_generator
from training.models.generator import Generator
from training.spec import GeneratorSpec


def load_generator(directory: Path, vocabulary: str) -> tuple[Generator, CheckpointRecord]:
    """Return the generator of a checkpoint, in evaluation mode, if it has the given `vocabulary`.

    Raises VocabularyMismatch for another vocabulary and CheckpointDamaged for missing or altered files.
    """
    record = read_record(directory, only=WEIGHTS)
    identity = record.identity
    if identity["vocabulary"] != vocabulary:
        raise VocabularyMismatch(str(directory), identity["vocabulary"], vocabulary)
    model = build_generator(
        GeneratorSpec(**{"constrained": False, **identity["spec"]}), tuple(identity["sizes"]), vocabulary
    )
    load_weights(directory, model)
    return model.eval(), record
