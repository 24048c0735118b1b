"""Trains a fusion on Ray Train, over several workers: the steps of `pipelines.fusion.training.train_here`."""

import logging
from functools import partial
from typing import Any

import ray

from learning.checkpoint import load_weights
from learning.ray_train.launch import Progress, launch
from learning.spec import LoopSpec
from pipelines.fusion.training import FusionTraining, Trained, weights

logger = logging.getLogger(__name__)


def train_on_ray(training: FusionTraining, storage_path: str, progress: Progress = logger.info) -> Trained:
    """Train on `fusion.workers` workers of the running cluster; the same training, run again, resumes.

    The vectors lie once in the object store of each machine. Raises TrainingFailed as `launch` does.
    """
    spec = LoopSpec(
        workers=training.spec.workers,
        epochs=training.spec.epochs,
        learning_rate=training.spec.learning_rate,
        warmup_steps=training.spec.warmup_steps,
        weight_decay=training.spec.weight_decay,
        seed=training.spec.seed,
    )
    make = partial(_stored, ray.put(training))
    result = launch(make, spec, f"fusion-{training.plan_hash}", storage_path, progress=progress, label="fusion")
    net = training.module
    load_weights(result.checkpoint_dir, net)
    return Trained(weights(net), [row["loss"] for row in result.history])


def _stored(training: Any) -> FusionTraining:
    found: FusionTraining = ray.get(training)
    return found
