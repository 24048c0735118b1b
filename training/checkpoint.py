"""A trained model on disk: safetensors weights, and a JSON record that says what they are, written last."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from training.errors import CheckpointDamaged, CheckpointMismatch, VocabularyMismatch
from training.generator import Generator
from training.spec import GeneratorSpec
from training.trainable import Cursor

WEIGHTS = "model.safetensors"
RECORD = "checkpoint.json"


@dataclass(frozen=True)
class Record:
    """What a checkpoint is: `identity` as the Trainable states it, how far it was trained, and by what code."""

    identity: Mapping[str, Any]
    cursor: Cursor
    step: int
    history: list[dict[str, float]]
    code_version: str


def code_version() -> str:
    """Version of the installed distribution, or `checkout` where the code runs without being installed."""
    try:
        return importlib.metadata.version("sidmill")
    except importlib.metadata.PackageNotFoundError:
        return "checkout"


def save(
    directory: Path,
    module: nn.Module,
    identity: Mapping[str, Any],
    cursor: Cursor,
    step: int,
    history: list[dict[str, float]],
) -> None:
    """Write weights, then the record: a directory with a record is whole."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(weights, directory / WEIGHTS)
    record = {
        "identity": dict(identity),
        "cursor": {"plan": cursor.plan, "epoch": cursor.epoch, "sample": cursor.sample},
        "step": step,
        "history": history,
        "code_version": code_version(),
        "weights_sha256": _sha256(directory / WEIGHTS),
    }
    draft = directory / f"{RECORD}.draft"
    draft.write_text(json.dumps(record, indent=1, sort_keys=True))
    draft.replace(directory / RECORD)


def read_record(directory: Path) -> Record:
    """The record of a checkpoint whose weights are the ones it names; raises CheckpointDamaged otherwise."""
    for name in (RECORD, WEIGHTS):
        if not (directory / name).is_file():
            raise CheckpointDamaged(
                f"{directory}: {name} is missing; the checkpoint was not finished: use an older one or train again"
            )
    record = json.loads((directory / RECORD).read_text())
    found = _sha256(directory / WEIGHTS)
    if found != record["weights_sha256"]:
        raise CheckpointDamaged(
            f"{directory / WEIGHTS}: sha256 is {found}, the record names {record['weights_sha256']}; "
            "use an older checkpoint or train again"
        )
    return Record(
        record["identity"], Cursor(**record["cursor"]), record["step"], record["history"], record["code_version"]
    )


def require_same(where: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise CheckpointMismatch, naming what differs, unless a checkpoint holds the training that is wanted."""
    changed = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if changed:
        differences = "; ".join(f"{key}: {found.get(key)} there, {wanted.get(key)} here" for key in changed)
        raise CheckpointMismatch(f"{where} holds another training ({differences}); train under another run name")


def load_weights(directory: Path, module: nn.Module) -> None:
    """Put the checkpoint's weights into a module of the same shape."""
    module.load_state_dict(load_file(directory / WEIGHTS))


def load_generator(directory: Path, vocabulary: str) -> tuple[Generator, Record]:
    """The generator of a checkpoint, in evaluation mode, if it speaks `vocabulary`.

    Raises VocabularyMismatch for another vocabulary and CheckpointDamaged for files that are not whole.
    """
    record = read_record(directory)
    identity = record.identity
    if identity["vocabulary"] != vocabulary:
        raise VocabularyMismatch(str(directory), identity["vocabulary"], vocabulary)
    model = Generator(GeneratorSpec(**identity["spec"]), tuple(identity["sizes"]), vocabulary)
    load_weights(directory, model)
    return model.eval(), record


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
