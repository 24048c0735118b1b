"""Partitions of a large source, which workers read, convert and write; the process of the run commits their files."""

from collections.abc import Generator
from typing import TypeVar

from pipelines.compute.cluster import machine_cpus
from pipelines.compute.executors import Compute, Job, OnRay, WorkerDied
from pipelines.compute.ray_address import foreign_address
from pipelines.sources.protocol import Partitioned, Source, SourcePartition, Spec
from storage.lake import Lake

D = TypeVar("D")
MIN_ROWS, MIN_ROWS_OF_TWO = 1 << 22, 1 << 24
"""Fewest rows that are worth the start of workers, which takes seconds, and if there are but two of them."""
MAX_ROWS = 1 << 22
"""Most rows of a partition: what is refused of it is in the memory of a worker."""
TRIES = 3
"""How often a partition is given to a worker, if that dies."""


def partitions_for_workers(lake: Lake, source: Source, spec: Spec, compute: Compute | None) -> list[SourcePartition]:
    """Return the partitions of a source if workers should read it and can, else none.

    Workers of a cluster elsewhere do not see a source or a lake on this machine.
    """
    if not isinstance(compute, OnRay) or not isinstance(source, Partitioned):
        return []
    least = MIN_ROWS
    if foreign_address() is None:
        if machine_cpus() == 1:
            return []
        least = MIN_ROWS if machine_cpus() > 2 else MIN_ROWS_OF_TWO
    elif lake.is_local or source.is_on_this_machine:
        return []
    found = source.partitions(spec)
    sizes = [each.rows for each in found]
    return found if len(sizes) > 1 and sum(sizes) >= least and max(sizes) <= MAX_ROWS else []


def made_in_order(
    compute: Compute, job: Job[SourcePartition, D], partitions: list[SourcePartition]
) -> Generator[D, None, None]:
    """Yield what a job makes of each partition, in order. Raise WorkerDied if workers die TRIES times."""
    left, made, due = dict(enumerate(partitions)), dict[int, D](), 0
    for tries in reversed(range(TRIES)):
        numbers = list(left)
        try:
            for place, result in compute.map(job, [left[number] for number in numbers]):
                del left[numbers[place]]
                made[numbers[place]] = result
                while due in made:
                    yield made.pop(due)
                    due += 1
            return
        except WorkerDied:
            if not tries:
                raise
