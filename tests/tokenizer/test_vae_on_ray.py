"""Learned quantizers on Ray Train: the same codebook as in process, also after a worker was killed."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from ray import cloudpickle

from learning.ray_train.trainer import RayTrainer
from tokenizer.arrays.items import tie_keys
from tokenizer.arrays.vectors import ArrayRows, Items
from tokenizer.errors import CodebookDiverged
from tokenizer.fit import fit_codebook
from tokenizer.quantizers.learned import train_network
from tokenizer.quantizers.vae.trainable import VaeTrainable
from tokenizer.quantizers.vae.training import VaeInputs
from tokenizer.spec import CodebookSpec

Floats = NDArray[np.float32]


def spec_of(quantizer: str = "rq-vae", **vae: object) -> CodebookSpec:
    small = {"hidden": (24, 16), "latent": 6, "epochs": 3, "steps": 10, "batch_size": 50, "learning_rate": 0.01}
    return CodebookSpec.model_validate(
        {"quantizer": quantizer, "levels": [{"codes": 8}] * 3, "iterations": 4, "vae": {**small, **vae}}
    )


def vectors() -> Floats:
    draw = np.random.default_rng(0)
    centre = 2 * np.random.default_rng(1).normal(size=(12, 10))
    return (centre[draw.integers(12, size=240)] + draw.normal(size=(240, 10))).astype(np.float32)


VECTORS = vectors()
IDS = [f"item-{row}" for row in range(240)]


@dataclass(frozen=True)
class DeadlyRows(ArrayRows):
    """Rows that kill the process that reads them for the `last` time, once: a file remembers."""

    flag: Path
    last: int
    reads: list[int]

    def take(self, rows: NDArray[np.int64]) -> Floats:
        self.reads.append(len(rows))
        if len(self.reads) == self.last and not self.flag.exists():
            self.flag.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().take(rows)


@dataclass(frozen=True)
class WatchedRows(ArrayRows):
    """Rows that write down which processes read them."""

    readers: Path

    def take(self, rows: NDArray[np.int64]) -> Floats:
        with self.readers.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return super().take(rows)


def training_of(spec: CodebookSpec, rows: object) -> VaeInputs:
    items = Items({"fused": rows}, tie_keys(IDS))  # type: ignore[dict-item]
    return VaeInputs(spec, items, VECTORS.mean(axis=0), VECTORS.std(axis=0))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_is_killed_changes_no_byte(tmp_path: Path) -> None:
    """Killed in the second of three epochs, it goes on after the first, and ends where a training in process does."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    flag = tmp_path / "killed"
    found = train_network(training_of(spec_of(), DeadlyRows(VECTORS, flag, 18, [])), RayTrainer(tmp_path / "runs"))
    assert int(flag.read_text()) != os.getpid()
    here = train_network(training_of(spec_of(), ArrayRows(VECTORS)))
    assert found.loss == here.loss
    assert found.arrays.keys() == here.arrays.keys()
    for name, array in here.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_follow_the_loss_of_one_and_run_again_the_training_is_there(tmp_path: Path) -> None:
    spec = spec_of(workers=2, contrastive=0.2, sinkhorn=0.05)
    train = RayTrainer(tmp_path)
    book = fit_codebook({"fused": VECTORS}, IDS, spec, train=train)
    alone = fit_codebook({"fused": VECTORS}, IDS, spec)
    assert book.statistics["loss"] == pytest.approx(alone.statistics["loss"], rel=1e-2)
    assert book.statistics["loss"][0] == pytest.approx(alone.statistics["loss"][0], rel=1e-4)
    again = fit_codebook({"fused": VECTORS}, IDS, spec, train=train)
    assert again.to_bytes() == book.to_bytes()


def test_what_is_trained_is_named_by_its_data_and_settings() -> None:
    one = VaeTrainable(training_of(spec_of(), ArrayRows(VECTORS)))
    other = VaeTrainable(training_of(spec_of("fsq"), ArrayRows(VECTORS)))
    assert one.identity != other.identity
    assert one.plan_hash == VaeTrainable(training_of(spec_of(workers=2), ArrayRows(VECTORS))).plan_hash


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_loss_that_is_no_number_stops_all_workers_at_once(workers: int, tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    readers = tmp_path / "readers"
    training = training_of(spec_of(workers=workers, learning_rate=1e30), WatchedRows(VECTORS, readers))
    with pytest.raises(
        CodebookDiverged, match=r"the loss of the codebook is (nan|inf): lower codebook.vae.learning_rate"
    ):
        train_network(training, RayTrainer(tmp_path / "runs"))
    assert len(set(readers.read_text().split())) == workers, "nobody tried again"
