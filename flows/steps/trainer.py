"""The `Trainer` of a run on Ray."""

from flows.runtime.run import Run
from learning.trainer import Trainer
from pipelines.compute.cluster import connect


def ray_trainer(run: Run) -> Trainer:
    """Return a trainer on the cluster of the run; checkpoints are in its lake, so that a stopped run can resume."""
    from learning.ray_train.trainer import RayTrainer

    connect(run.recipe.compute)
    return RayTrainer(f"{run.lake.uri}/training", lambda line: run.say(f"    {line}"), run.figures.epoch)
