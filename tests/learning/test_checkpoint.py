"""Checkpoints: what comes back is what was saved, or a refusal that says what to do."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from learning.checkpoint import (
    RECORD,
    WEIGHTS,
    CheckpointRecord,
    Shards,
    State,
    load_state,
    read_record,
)
from learning.errors import CheckpointDamaged
from learning.optimizer import adamw, take_step
from learning.trainable import Cursor
from training.data.histories import Plan
from training.errors import VocabularyMismatch
from training.models.generator import Generator
from training.models.saved import load_generator
from training.objectives.next_code import NextCode, Origin
from training.spec import GeneratorSpec

PLAN = Plan("r-1", buckets=1, sizes=(3, 4), batch_size=2, max_events=4)


def saved(directory: Path) -> Generator:
    spec = GeneratorSpec(constrained=False, dim=16, layers=1, heads=2, kv_heads=1, ff=8, max_events=4)
    trainable = NextCode(spec, PLAN, lambda _: None, Origin("vocabulary-a", "r-1", "recipe-a"))
    record = CheckpointRecord(trainable.identity, Cursor(PLAN.hash, 2, 7), 11, [{"loss": 0.1}])
    State.of(trainable.module, adamw(trainable.module, 0.1, 0.0)).write(directory, record)
    return trainable.generator


def test_a_model_comes_back_with_its_record(tmp_path: Path) -> None:
    before = saved(tmp_path)
    after, record = load_generator(tmp_path, "vocabulary-a")
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert (after.spec, after.sizes, after.vocabulary) == (before.spec, before.sizes, "vocabulary-a")
    assert not after.training
    assert record.cursor == Cursor(PLAN.hash, 2, 7)
    assert (record.step, record.history) == (11, [{"loss": 0.1}])
    assert (record.identity["release"], record.identity["recipe"]) == ("r-1", "recipe-a")
    assert record.code_version


def test_another_vocabulary_is_refused_with_both_hashes_and_the_remedy(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(VocabularyMismatch, match=r"vocabulary-a.*vocabulary-b.*sidmill run train --release") as caught:
        load_generator(tmp_path, "vocabulary-b")
    assert (caught.value.found, caught.value.wanted) == ("vocabulary-a", "vocabulary-b")


@pytest.mark.parametrize("name", [RECORD, WEIGHTS])
def test_an_unfinished_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    saved(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointDamaged, match=f"{name} is missing"):
        load_generator(tmp_path, "vocabulary-a")


@pytest.mark.parametrize("sharding", [False, True])
def test_a_checkpoint_that_lacks_any_file_or_has_a_torn_one_is_refused(tmp_path: Path, sharding: bool) -> None:
    """Files are copied to where they lie in any order, and the copy may die after any of them."""
    module = torch.nn.Linear(3, 2)
    optimizer = adamw(module, 0.1, 0.0)
    take_step(module, optimizer, module(torch.ones(3)).sum(), 0.1)
    before = [weight.detach().clone() for weight in module.parameters()]
    record = CheckpointRecord({}, Cursor("p"), 1, [])
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        everyone = distributed.new_group(backend="gloo")
        state = Shards.of(module, optimizer, everyone, whole=True) if sharding else State.of(module, optimizer)
        take_step(module, optimizer, module(torch.ones(3)).sum(), 0.1)
        state.write(tmp_path, record)  # what it was, whatever was learnt since
        load_state(tmp_path, module, optimizer, sharding)
    finally:
        distributed.destroy_process_group()
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert read_record(tmp_path).step == 1
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == (4 if sharding else 3)
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointDamaged, match=path.name):
            read_record(tmp_path)
        path.unlink()
        with pytest.raises(CheckpointDamaged, match=f"{path.name} is missing"):
            read_record(tmp_path)
        path.write_bytes(content)


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointDamaged, match="sha256"):
        load_generator(tmp_path, "vocabulary-a")
