"""A training in process that was killed goes on after its last checkpoint, and ends as one that was not."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import test_trainer as trainings
import torch
from test_trainer import Made, fusion, sasrec, vae

from learning import trainer
from learning.progress import progress_listener
from learning.trainable import Cursor
from learning.trainer import ResumableTrainer, StoredCheckpoint, train_in_process

KILLED = """
import sys
from learning import trainer
import test_resumable
trainer.SAVE_S = 0
trainable, spec = getattr(test_resumable, sys.argv[1])()
trainer.ResumableTrainer(sys.argv[2])(test_resumable.Mortal(trainable), spec, "twin")
"""
FATAL = (1, 2)
"""Epoch and step of the kill."""


class Mortal:
    """A trainable whose process is killed in its second epoch."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    def batches(self, rank: int, world: int, cursor: Cursor) -> Iterator[Any]:
        for number, each in enumerate(self._of.batches(rank, world, cursor)):
            if (cursor.epoch, number) == FATAL:
                os.kill(os.getpid(), signal.SIGKILL)
            yield each


@pytest.fixture(autouse=True)
def each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "SAVE_S", 0.0)


def killed(make: Callable[[], Made], folder: Path) -> Path:
    """Train in another process, which is killed, and return the checkpoint that it leaves."""
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
    command = [sys.executable, "-c", KILLED, make.__name__, str(folder)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (left,) = folder.glob("*/step-*")
    return left


def again(make: Callable[[], Made], folder: Path) -> tuple[list[str], list[float], dict[str, torch.Tensor]]:
    """Train here; return the lines of progress, the losses and the weights."""
    trainable, spec = make()
    lines: list[str] = []
    with progress_listener(lines.append):
        losses = ResumableTrainer(str(folder))(trainable, spec, "twin")
    assert list(folder.iterdir()) == []
    return [line.split(":")[0] for line in lines], losses, trainable.module.state_dict()


def undisturbed(make: Callable[[], Made]) -> tuple[list[float], dict[str, torch.Tensor]]:
    trainable, spec = make()
    return train_in_process(trainable, spec, "twin"), trainable.module.state_dict()


@pytest.mark.parametrize("make", [vae, fusion, sasrec])
def test_a_killed_training_takes_the_steps_that_it_had_not_taken(make: Callable[[], Made], tmp_path: Path) -> None:
    killed(make, tmp_path)
    lines, losses, weights = again(make, tmp_path)
    assert lines == ["twin", "twin epoch 2 of 3", "twin epoch 3 of 3"]
    wanted, same = undisturbed(make)
    assert losses == wanted
    torch.testing.assert_close(weights, same, rtol=0, atol=0)


@pytest.mark.parametrize(
    "harm", ["a flipped bit", "a missing file", "a record of another shape", "another version of the code"]
)
def test_a_checkpoint_that_is_damaged_or_of_other_code_is_not_used(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = killed(fusion, tmp_path)
    weights = left / "model.safetensors"
    if harm == "a flipped bit":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif harm == "a missing file":
        weights.unlink()
    elif harm == "a record of another shape":
        record = left / "checkpoint.json"
        record.write_text(record.read_text().replace('"sha256"', '"sha257"'))
    else:
        monkeypatch.setattr(trainer, "code_version", lambda: "another")
    lines, losses, weights_now = again(fusion, tmp_path)
    assert lines == [f"twin epoch {epoch} of 3" for epoch in (1, 2, 3)]
    wanted, same = undisturbed(fusion)
    assert losses == wanted
    torch.testing.assert_close(weights_now, same, rtol=0, atol=0)


def test_a_short_training_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "SAVE_S", 10.0)
    monkeypatch.setattr(StoredCheckpoint, "delete", lambda self: None)
    trainable, spec = trainings.vae()
    ResumableTrainer(str(tmp_path))(trainable, spec, "twin")
    assert list(tmp_path.iterdir()) == []


class Stopped(Exception):
    pass


class Stops(Mortal):
    """A trainable that raises after so many epochs."""

    def __init__(self, of: Any, after: int) -> None:
        super().__init__(of)
        self._after = after

    def batches(self, rank: int, world: int, cursor: Cursor) -> Iterator[Any]:
        if cursor.epoch == self._after:
            raise Stopped
        yield from self._of.batches(rank, world, cursor)


def stopped(make: Callable[[], Made], folder: Path, after: int) -> Path:
    """Train for so many epochs, and return the checkpoint that is left."""
    trainable, spec = make()
    with pytest.raises(Stopped):
        ResumableTrainer(str(folder))(Stops(trainable, after), spec, "twin")
    (left,) = folder.glob("*/step-*")
    return left


@pytest.mark.parametrize("change", [{"epochs": 1}, {"learning_rate": 0.5}])
def test_a_training_with_other_settings_of_the_loop_begins_anew(change: dict[str, Any], tmp_path: Path) -> None:
    """The plan hash of a SASRec is of its data and their order: the number of epochs does not enter."""

    def changed() -> Made:
        trainable, spec = sasrec()
        return trainable, spec.model_copy(update=change)

    stopped(sasrec, tmp_path, 2)
    trainable, spec = changed()
    losses = ResumableTrainer(str(tmp_path))(trainable, spec, "twin")
    wanted, same = undisturbed(changed)
    assert losses == wanted
    torch.testing.assert_close(trainable.module.state_dict(), same, rtol=0, atol=0)
    assert len(again(sasrec, tmp_path)[1]) == 3


def test_a_damaged_checkpoint_of_the_same_step_is_written_over_and_stays(tmp_path: Path) -> None:
    left = stopped(fusion, tmp_path, 1)
    whole = (left / "model.safetensors").read_bytes()
    (left / "model.safetensors").write_bytes(b"")
    assert stopped(fusion, tmp_path, 1) == left
    assert (left / "model.safetensors").read_bytes() == whole


def test_a_checkpoint_that_another_run_of_the_same_training_has_deleted_is_none_to_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(fusion, tmp_path, 1)
    paths = StoredCheckpoint._paths
    gone = tmp_path.resolve() / "gone" / "step-000000001"
    monkeypatch.setattr(StoredCheckpoint, "_paths", lambda self: [*paths(self), str(gone)])
    lines, losses, _ = again(fusion, tmp_path)
    assert lines[0] == "twin"
    assert losses == undisturbed(fusion)[0]
