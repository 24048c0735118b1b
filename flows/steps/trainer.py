"""The `Trainer` of a run that is on Ray."""

from flows.runtime.run import Run
from learning.trainer import Trainer
from pipelines.cluster import connect


def ray_trainer(run: Run) -> Trainer:
    """Train on the cluster of the run: checkpoints lie in its lake, so that a run that was stopped goes on."""
    from learning.ray_train.trainer import RayTrainer

    connect(run.recipe.compute)
    return RayTrainer(f"{run.lake.uri}/training", lambda line: run.say(f"    {line}"))
