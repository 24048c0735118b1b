"""The item tower of a SASRec after each of several logs, of which each holds the one before.

A training goes on from the last one: an item keeps its embedding, and one that is new starts anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from torch import Tensor

from learning.checkpoint import load_weights
from learning.ray_train.launch import Progress, launch
from training.sasrec.sasrec import SasRec, SasRecTrainable, item_vectors, train_here, train_spec
from training.spec import ItemTowerSpec, SasRecSpec

logger = logging.getLogger(__name__)
Ints = NDArray[np.int64]
Matrix = NDArray[np.float32]


def item_towers(
    logs: Sequence[Sequence[Ints]],
    items: int,
    spec: ItemTowerSpec,
    train: Callable[[SasRecTrainable], SasRec] = train_here,
) -> list[Matrix]:
    """Unit vectors of the items after each log in turn, float32 (items, D); zero for an item that is not in it.

    A log is a list of histories, rows of items oldest first. What a log does not hold has no part in its training, so
    its vectors do not depend on what comes later.
    """
    towers: list[Matrix] = []
    before: tuple[Ints, SasRec] | None = None
    for log in logs:
        rows = np.unique(np.concatenate(log))
        epochs = spec.epochs if before is None else spec.further_epochs
        model_spec = spec.model.model_copy(update={"epochs": epochs})
        start = None if before is None else _grown(model_spec, rows, *before)
        own = [np.searchsorted(rows, history) for history in log]
        model = train(SasRecTrainable(model_spec, len(rows), own, start))
        tower = np.zeros((items, spec.dim), np.float32)
        tower[rows] = item_vectors(model)
        towers.append(tower)
        before = rows, model
    return towers


def item_towers_on_ray(
    logs: Sequence[Sequence[Ints]],
    items: int,
    spec: ItemTowerSpec,
    storage_path: str | Path,
    progress: Progress = logger.info,
) -> list[Matrix]:
    """The same, trained by `sasrec.workers` workers of the running cluster; run again, it resumes.

    The histories lie once in the object store of each machine. Raises TrainingFailed as `launch` does.
    """

    def train(trainable: SasRecTrainable) -> SasRec:
        make = partial(_stored, ray.put(trainable))
        settings = train_spec(trainable.spec, spec.workers)
        result = launch(
            make, settings, f"sasrec-{trainable.plan_hash}", storage_path, progress=progress, label="SASRec"
        )
        load_weights(result.checkpoint_dir, trainable.module)
        return trainable.module.eval()

    return item_towers(logs, items, spec, train)


def _grown(spec: SasRecSpec, rows: Ints, known: Ints, model: SasRec) -> dict[str, Tensor]:
    """The weights of a model of the items `known`, for the items `rows` (both sorted), fresh where an item is new."""
    weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    items = SasRec(spec, len(rows)).items.weight.detach().clone()
    _, now, then = np.intersect1d(rows, known, return_indices=True)
    items[now] = weights["items.weight"][then]
    return {**weights, "items.weight": items}


def _stored(trainable: Any) -> SasRecTrainable:
    found: SasRecTrainable = ray.get(trainable)
    return found
