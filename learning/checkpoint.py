"""Checkpoints of a model on disk: safetensors weights, and a JSON record that is written last.

An unsharded checkpoint holds the weights and the optimizer state. A sharded one holds both in shards that any number of
workers can read. The record has the sha256 of every file, over all workers. A checkpoint is complete when all files
match their hashes, in whatever order they were copied.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from learning.errors import CheckpointDamaged, CheckpointMismatch
from learning.file_hash import file_sha256
from learning.trainable import Cursor
from plugins.registry import code_version

WEIGHTS = "model.safetensors"
RECORD = "checkpoint.json"
OPTIMIZER = "optimizer.pt"
SHARDS = "shards"


@dataclass(frozen=True)
class CheckpointRecord:
    """The record of a checkpoint: the `identity` of its Trainable, the training progress, and the code version.

    `partial_epoch_sums` holds the sums of an unfinished epoch.
    """

    identity: Mapping[str, Any]
    cursor: Cursor
    step: int
    history: list[dict[str, float]]
    code_version: str = field(default_factory=code_version)
    partial_epoch_sums: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """A snapshot of weights and optimizer in separate memory, to be written while training continues."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]

    @classmethod
    def of(cls, module: nn.Module, optimizer: torch.optim.Optimizer) -> State:
        """Copy the current state."""
        state = optimizer.state_dict()
        moments = {
            number: {name: _copied(value) if isinstance(value, Tensor) else value for name, value in each.items()}
            for number, each in state["state"].items()
        }
        weights = {name: _copied(tensor) for name, tensor in module.state_dict().items()}
        return cls(weights, {"state": moments, "param_groups": deepcopy(state["param_groups"])})

    def write(self, directory: Path, record: CheckpointRecord) -> None:
        """Write optimizer and weights, then the record. A directory with a record is complete."""
        try:
            torch.save(self.optimizer, directory / OPTIMIZER)
        except RuntimeError as error:  # torch does not report the cause
            free = shutil.disk_usage(directory).free
            raise OSError(
                f"cannot write the checkpoint {directory / OPTIMIZER}: {free:,} bytes are free on that disk ({error})"
            ) from error
        save_file(self.weights, directory / WEIGHTS)
        _write_record(directory, record, _hashes(directory))


@dataclass(frozen=True)
class Shards:
    """A snapshot of one worker's shard of weights and optimizer; `whole` holds the full weights, or nothing.

    Each worker writes its shard; any number of workers can read the shards. Workers synchronise through `group`, which
    nothing else may use while they write.
    """

    parts: dict[str, Any]
    whole: dict[str, Tensor]
    group: distributed.ProcessGroup

    @classmethod
    def of(
        cls, module: nn.Module, optimizer: torch.optim.Optimizer, group: distributed.ProcessGroup, whole: bool
    ) -> Shards:
        """Copy the current state on all workers together. With `whole`, the full weights are gathered too."""
        model, state = get_state_dict(module, optimizer)
        plain = StagingOptions(
            use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
        )
        parts: Any = DefaultStager(plain).stage({"model": model, "optimizer": state})
        everything = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights: dict[str, Any] = get_model_state_dict(module, options=everything) if whole else {}
        return cls(parts, weights, group)

    def write(self, directory: Path, record: CheckpointRecord) -> None:
        """Write this worker's shard. Rank 0 also writes the full weights and, after all workers, the record."""
        first = distributed.get_rank(self.group) == 0
        save_shards(self.parts, checkpoint_id=directory / SHARDS, process_group=self.group)
        if first and self.whole:
            save_file(self.whole, directory / WEIGHTS)
        hashes: list[dict[str, str]] = [{} for _ in range(distributed.get_world_size(self.group))]
        distributed.all_gather_object(hashes, _hashes(directory), self.group)
        if first:
            _write_record(directory, record, {name: digest for part in hashes for name, digest in part.items()})


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _hashes(directory: Path) -> dict[str, str]:
    """Return the sha256 of each file by name, without the record."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != RECORD)
    return {str(path.relative_to(directory)): file_sha256(path) for path in files}


def _write_record(directory: Path, record: CheckpointRecord, hashes: Mapping[str, str]) -> None:
    written = {
        "identity": dict(record.identity),
        "cursor": asdict(record.cursor),
        "step": record.step,
        "history": record.history,
        "begun": dict(record.partial_epoch_sums),
        "code_version": record.code_version,
        "sha256": dict(hashes),
    }
    draft = directory / f"{RECORD}.draft"
    draft.write_text(json.dumps(written, indent=1, sort_keys=True))
    draft.replace(directory / RECORD)


def load_state(directory: Path, module: nn.Module, optimizer: torch.optim.Optimizer, sharding: bool) -> None:
    """Load weights and optimizer of a checkpoint into a training of the same shape."""
    if sharding:
        model, state = get_state_dict(module, optimizer)
        stored: dict[str, Any] = {"model": model, "optimizer": state}
        load_shards(stored, checkpoint_id=directory / SHARDS)
        set_state_dict(module, optimizer, model_state_dict=stored["model"], optim_state_dict=stored["optimizer"])
    else:
        load_weights(directory, module)
        optimizer.load_state_dict(torch.load(directory / OPTIMIZER, "cpu", weights_only=True))


def read_record(directory: Path, only: str | None = None) -> CheckpointRecord:
    """Read a record and check the files it names (or `only` one). Raises CheckpointDamaged if one differs."""
    if not (directory / RECORD).is_file():
        raise CheckpointDamaged(_missing(directory, RECORD))
    try:
        stored = json.loads((directory / RECORD).read_text())
        cursor, hashes = Cursor(**stored["cursor"]), dict[str, str](stored["sha256"])
        identity, step, history, code, begun = (
            stored[name] for name in ("identity", "step", "history", "code_version", "begun")
        )
    except (ValueError, KeyError, TypeError) as error:  # also JSON of another shape, as after a changed byte
        raise CheckpointDamaged(
            f"cannot read the checkpoint record {directory / RECORD}: {type(error).__name__}: {error}; use an older "
            "checkpoint or train again"
        ) from error
    for name, wanted in hashes.items():
        if only not in (None, name):
            continue
        if not (directory / name).is_file():
            raise CheckpointDamaged(_missing(directory, name))
        found = file_sha256(directory / name)
        if found != wanted:
            raise CheckpointDamaged(
                f"the checkpoint file {directory / name} is damaged: its sha256 is {found}, but the record of the "
                f"checkpoint has {wanted}; use an older checkpoint or train again"
            )
    return CheckpointRecord(identity, cursor, step, history, code, begun)


def _missing(directory: Path, name: str) -> str:
    return f"the checkpoint {directory} is incomplete: {name} is missing; use an older checkpoint or train again"


def require_same(where: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise CheckpointMismatch, naming the differences, unless a checkpoint is of the wanted training."""
    changed = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if changed:
        differences = "; ".join(f"{key} is {found.get(key)} there and {wanted.get(key)} now" for key in changed)
        raise CheckpointMismatch(
            f"{where} belongs to a different training ({differences}); delete it to start this training from the "
            "beginning"
        )


def load_weights(directory: Path, module: nn.Module) -> None:
    """Load the checkpoint's weights into a module of the same shape."""
    module.load_state_dict(load_file(directory / WEIGHTS))
