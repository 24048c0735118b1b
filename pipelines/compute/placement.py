"""Resources of the workers of a stage, and whether a cluster has them."""

from collections.abc import Callable
from typing import Any

from pipelines.compute.cluster import machine_cpus
from pipelines.compute.ray_address import foreign_address
from pipelines.spec import TASKS, ComputeSpec, StageSpec


class StageError(ValueError):
    """Raised when a stage cannot be constructed in the process that runs it."""


class TaskStage:
    """Stage of a job that loads no model."""

    name = TASKS


def placement(
    spec: ComputeSpec, make: Callable[..., Any], blocks: int, cluster: dict[str, float]
) -> tuple[StageSpec, int]:
    """Return the resources of each worker of a stage, and the number of workers for a number of blocks.

    Raises StageError if the cluster has not even the resources of one worker: it would wait for ever.
    """
    name = getattr(make, "name", make.__name__)
    asked = asked_of(spec, name)
    gpus = cluster.get("GPU", 0.0) if getattr(make, "uses_gpu", False) else 0.0
    share = float(min(1.0, gpus)) if asked.num_gpus is None else asked.num_gpus
    if fault := lacking(name, asked.model_copy(update={"num_gpus": share}), cluster):
        raise StageError(fault)
    cpus = machine_cpus() if foreign_address() is None else cluster.get("CPU", 1.0)
    served = int(gpus / share) if share else int(cpus / asked.num_cpus)
    wanted = asked.workers or (0 if name == TASKS else spec.encoder_workers) or served
    workers = max(1, min(wanted, blocks))
    return asked.model_copy(update={"num_gpus": share}), workers


def task_options(spec: ComputeSpec, cluster: dict[str, float]) -> dict[str, Any]:
    """Return what Ray has to reserve for a task that loads no model.

    Raises StageError if the cluster has not the resources of one task.
    """
    asked = asked_of(spec, TASKS)
    if fault := lacking(TASKS, asked, cluster):
        raise StageError(fault)
    return {"num_cpus": asked.num_cpus, "resources": asked.resources or None}


def asked_of(spec: ComputeSpec, name: str) -> StageSpec:
    """Return what the recipe asks for a stage."""
    return {str(each): of for each, of in spec.stages.items()}.get(name, StageSpec())


def lacking(name: str, asked: StageSpec, cluster: dict[str, float], where: str = "the whole cluster") -> str:
    """Return what one worker of a stage reserves and a cluster does not have; nothing if it has all."""
    wanted = {"CPU": asked.num_cpus, "GPU": asked.num_gpus or 0.0, **asked.resources}
    short = {each: amount for each, amount in wanted.items() if amount > cluster.get(each, 0.0)}
    if not short:
        return ""
    return (
        f"a worker of [compute.stages.{name}] reserves "
        f"{', '.join(f'{amount:g} {each}' for each, amount in short.items())}, and {where} has "
        f"{', '.join(f'{cluster.get(each, 0.0):g} {each}' for each in short)}: lower it, or add nodes"
    )


def resources_here(spec: ComputeSpec) -> dict[str, float]:
    """Return the resources of a cluster that would be started on this machine."""
    import torch

    return {"CPU": float(spec.cpus or machine_cpus() + 1), "GPU": float(torch.cuda.device_count())}
