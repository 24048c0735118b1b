"""Parts of a release, read from a lake and verified."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from storage.lake import Lake
from storage.releases.manifest import Manifest
from storage.releases.models import Model
from tokenizer.trie.trie import Trie

if TYPE_CHECKING:
    from training.models.generator import Generator


def open_trie(lake: Lake, manifest: Manifest) -> Trie:
    """Return the trie that a release pins."""
    return Trie.open(lake.blobs.local_path(manifest.trie.sha256))


def load_model(lake: Lake, row: Model, vocabulary: str) -> Generator:
    """Return the generator of a row of `models`, in evaluation mode.

    Raises VocabularyMismatch unless it has `vocabulary`.
    """
    from learning.checkpoint import RECORD, WEIGHTS
    from training.models.saved import load_generator

    with TemporaryDirectory() as folder:
        (Path(folder) / WEIGHTS).write_bytes(lake.blobs.get(row.weights))
        (Path(folder) / RECORD).write_bytes(lake.blobs.get(row.card.record_blob or ""))
        return load_generator(Path(folder), vocabulary)[0]
