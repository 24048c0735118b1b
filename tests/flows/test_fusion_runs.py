"""A fusion trained on several workers of Ray Train is that of one process; run again, it trains nothing."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from learning.ray_train.trainer import RayTrainer
from pipelines.fusion.fit import fit_fusion
from pipelines.fusion.frozen import Fusion
from pipelines.modalities import Modality
from pipelines.spec import FusionSpec

ITEMS = 300
SPEC = FusionSpec(dim=16, hidden=16, epochs=2, steps=8, batch_size=128, align=0.2, workers=2)


def catalogue() -> tuple[dict[str, Modality], NDArray[np.int64]]:
    draw = np.random.default_rng(0)
    hidden = draw.standard_normal((ITEMS, 6))
    made = {
        name: Modality((hidden @ draw.standard_normal((6, width))).astype(np.float32), draw.random(ITEMS) < share)
        for name, width, share in (("text", 12, 1.0), ("collaborative", 8, 0.6))
    }
    return made, draw.integers(ITEMS, size=(2000, 2))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_fit_the_fusion_of_one_process_and_a_second_run_trains_nothing(tmp_path: Path) -> None:
    items, pairs = catalogue()
    here = fit_fusion(items, SPEC, pairs)
    told: list[str] = []

    train = RayTrainer(str(tmp_path), told.append)
    there = fit_fusion(items, SPEC, pairs, train=train)
    assert len([line for line in told if "epoch" in line]) == SPEC.epochs
    np.testing.assert_allclose(there.statistics["loss"], here.statistics["loss"], rtol=1e-4)
    one, other = here.transform(items)[0], there.transform(items)[0]
    assert np.einsum("nd,nd->n", one, other)[one.any(axis=1)].min() > 0.999
    told.clear()
    again = fit_fusion(items, SPEC, pairs, train=train)
    assert again.id == there.id
    assert not told
    assert Fusion.from_bytes(there.to_bytes()).id == there.id
