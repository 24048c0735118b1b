"""Item embeddings after each of several logs: what a log does not hold has no part in its training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from learning.ray_train.trainer import RayTrainer
from learning.spec import LoopSpec
from learning.trainer import train_in_process
from training.sasrec.item_embeddings import item_embeddings_of
from training.sasrec.sasrec import SasRec, SasRecTrainable
from training.spec import ItemEmbeddingsSpec

Ints = NDArray[np.int64]
ITEMS = 30
SPEC = ItemEmbeddingsSpec(dim=16, heads=2, max_events=8, batch_size=8, epochs=2, further_epochs=1, warmup_steps=5)


def log_of(count: int, items: int, seed: int = 0) -> list[Ints]:
    draw = np.random.default_rng(seed)
    return [draw.integers(items, size=length) for length in draw.integers(2, 12, size=count)]


def test_embeddings_cover_what_their_log_holds_and_do_not_depend_on_later_logs() -> None:
    earlier, later = log_of(30, 20), log_of(40, ITEMS)
    one, two = item_embeddings_of([earlier, later], ITEMS, SPEC)
    lengths = [np.linalg.norm(vectors, axis=1) for vectors in (one, two)]
    np.testing.assert_allclose(lengths[0], [1.0] * 20 + [0.0] * 10, atol=1e-6)
    np.testing.assert_allclose(lengths[1], 1.0, atol=1e-6)
    shifted = [history + 7 for history in earlier]  # other rows, the same order
    alone, _ = item_embeddings_of([shifted, log_of(9, 50, seed=3)], 50, SPEC)
    np.testing.assert_array_equal(alone[7:27], one[:20])


def test_a_training_goes_on_from_the_one_before_and_is_named_by_it() -> None:
    seen: list[SasRecTrainable] = []
    ended: list[SasRec] = []

    def train(trainable: Any, spec: LoopSpec, label: str) -> list[float]:
        seen.append(trainable)
        start = {name: weight.clone() for name, weight in trainable.module.state_dict().items()}
        if ended:
            before = ended[-1].state_dict()
            torch.testing.assert_close(start["items.weight"][:20], before.pop("items.weight"), rtol=0, atol=0)
            fresh = SasRec(trainable.spec, ITEMS).items.weight
            torch.testing.assert_close(start["items.weight"][20:], fresh[20:], rtol=0, atol=0)
            torch.testing.assert_close({name: start[name] for name in before}, dict(before), rtol=0, atol=0)
        ended.append(trainable.module)
        assert spec.epochs == trainable.spec.epochs
        return train_in_process(trainable, spec, label)

    item_embeddings_of([log_of(30, 20), log_of(40, ITEMS)], ITEMS, SPEC, train)
    assert [each.spec.epochs for each in seen] == [2, 1]
    fresh = SasRecTrainable(seen[1].spec, ITEMS, seen[1].histories)
    assert fresh.plan_hash != seen[1].plan_hash


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_of_ray_train_end_where_this_process_does_and_train_nothing_when_run_again(tmp_path: Path) -> None:
    spec, logs = SPEC.model_copy(update={"dropout": 0.0, "workers": 2}), [log_of(30, 20), log_of(40, ITEMS)]
    told: list[str] = []
    there = item_embeddings_of(logs, ITEMS, spec, RayTrainer(tmp_path, told.append))
    for one, other in zip(there, item_embeddings_of(logs, ITEMS, spec), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-2)
    assert len([line for line in told if "epoch" in line]) == 3
    told.clear()
    again = item_embeddings_of(logs, ITEMS, spec, RayTrainer(tmp_path, told.append))
    assert not told
    np.testing.assert_array_equal(again, there)
