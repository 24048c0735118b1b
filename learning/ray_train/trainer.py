"""A `Trainer` on the running Ray cluster."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray

from learning.checkpoint import load_weights
from learning.progress import EpochCallback, LineCallback
from learning.ray_train.launch import Listener, launch
from learning.spec import LoopSpec
from learning.trainable import Trainable
from learning.trainer import training_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RayTrainer:
    """A `Trainer` on `spec.workers` workers. Running the same training again resumes it or returns its result.

    A run is stored under the folder or URI `storage_path`, with the `training_name`. The trainable is stored once in
    the object store of each machine. Raises as `launch` does.
    """

    storage_path: str | Path
    progress: LineCallback = logger.info
    on_epoch: EpochCallback | None = None

    def __call__(self, trainable: Trainable[Any], spec: LoopSpec, label: str) -> list[float]:
        result = launch(
            partial(ray.get, ray.put(trainable)),
            spec,
            training_name(trainable, spec, label),
            self.storage_path,
            listener=Listener(self.progress, self.on_epoch),
            label=label,
        )
        load_weights(result.checkpoint_dir, trainable.module)
        trainable.module.eval()
        return [row["loss"] for row in result.history]
