"""Partitions of a large source, which workers read, convert and write; the process of the run commits their files."""

from collections.abc import Generator
from typing import TypeVar

import pyarrow.fs as pafs

from pipelines.compute.cluster import machine_cpus
from pipelines.compute.executors import Compute, Job, OnRay, WorkerDied
from pipelines.compute.ray_address import foreign_address
from pipelines.sources.protocol import Partition, Partitioned, Source, Spec

D = TypeVar("D")
MIN_ROWS = 1 << 22
"""Fewest rows that are worth the start of workers, which takes seconds. Two workers save less than more of them do."""
TRIES = 3
"""How often a partition is given to a worker, if that dies."""


def partitions_for_workers(source: Source, spec: Spec, compute: Compute | None) -> list[Partition]:
    """Return the partitions of a source if workers should read it and can, else none.

    Workers of a cluster elsewhere do not see files of this machine.
    """
    if not isinstance(compute, OnRay) or not isinstance(source, Partitioned):
        return []
    least = MIN_ROWS
    if foreign_address() is None:
        if machine_cpus() == 1:
            return []
        least = MIN_ROWS if machine_cpus() > 2 else 4 * MIN_ROWS
    elif isinstance(source.filesystem, pafs.LocalFileSystem):
        return []
    found = source.partitions(spec)
    return found if len(found) > 1 and sum(each.rows for each in found) >= least else []


def made_in_order(compute: Compute, job: Job[Partition, D], partitions: list[Partition]) -> Generator[D, None, None]:
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
