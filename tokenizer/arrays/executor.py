"""Execution of work on spans of rows, here by threads of this process; see pipelines.compute for clusters.

Results come back in the order of the tasks and depend on nothing else, so the bytes are the same for any number of
workers.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, Protocol, TypeVar

from tokenizer.arrays.vectors import Items

R = TypeVar("R")
T = TypeVar("T")


class Executor(Protocol):
    """An executor of one function on the same items and many tasks."""

    def map(self, function: Callable[..., R], items: Items, tasks: Iterable[tuple[Any, ...]]) -> Iterator[R]:
        """Yield the result of `function(items, *task)` for every task, in the order of the tasks."""


@cache
def _cores() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), "cores")


os.register_at_fork(after_in_child=_cores.cache_clear)  # a fork has no thread but its own


def map_on_cores(function: Callable[[T], R], pieces: Iterable[T]) -> list[R]:
    """Apply `function`, which does not call this, to each piece on the cores of this machine; results in order."""
    return list(_cores().map(function, pieces))


class Threads:
    """A `Work` on the cores of this machine."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or len(os.sched_getaffinity(0))

    def map(self, function: Callable[..., R], items: Items, tasks: Iterable[tuple[Any, ...]]) -> Iterator[R]:
        if self.count == 1:
            yield from (function(items, *task) for task in tasks)
            return
        with ThreadPoolExecutor(self.count) as pool:
            waiting: deque[Future[R]] = deque()
            for task in tasks:
                waiting.append(pool.submit(function, items, *task))
                if len(waiting) > 2 * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


LOCAL_THREADS = Threads()
"""The default `Work`: all cores of this machine."""
