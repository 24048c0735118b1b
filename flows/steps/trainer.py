"""The `Trainer`s of a run. A training that was killed resumes from its checkpoint in the lake."""

from pathlib import Path

from flows.runtime.run import Run
from learning.trainer import ResumableTrainer, Trainer
from pipelines.compute.cluster import connect
from storage.retention.garbage import TRAINING


def trainer_in_process(run: Run) -> ResumableTrainer:
    """Return a trainer for the process that it is called in; checkpoints are in the lake of the run."""
    uri = run.lake.uri
    return ResumableTrainer(f"{uri if '://' in uri else Path(uri).resolve()}/{TRAINING}")


def ray_trainer(run: Run) -> Trainer:
    """Return a trainer on the cluster of the run; checkpoints are in its lake, so that a stopped run can resume."""
    from learning.ray_train.trainer import RayTrainer

    connect(run.recipe.compute)
    return RayTrainer(f"{run.lake.uri}/{TRAINING}", lambda line: run.say(f"    {line}"), run.epochs(run.figures))
