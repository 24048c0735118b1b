"""Matrices that tasks make or find, part by part: the process of a run holds references to them, and not their rows.

They lie in a scratch file of this machine, or in Ray's object store if workers may be elsewhere. There each part stays
on the node that made it, and Ray makes it again if that node is lost.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, pairwise
from typing import Any, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.compute.executors import RayWork
from pipelines.compute.ray_address import foreign_address
from pipelines.compute.shared_rows import StoredRows
from tokenizer.arrays.executor import Executor
from tokenizer.arrays.scratch import FileRows, scratch_rows
from tokenizer.arrays.types import Floats
from tokenizer.arrays.vectors import Items, Rows, spans

R = TypeVar("R")
PlacedRows = tuple[NDArray[np.int64], Floats]
"""Rows of a matrix, ascending and distinct, and their vectors."""


def is_elsewhere(work: Executor) -> TypeGuard[RayWork]:
    """Return whether tasks may run on other machines, which do not see scratch files of this one."""
    return isinstance(work, RayWork) and foreign_address() is not None


def make_rows(
    work: Executor,
    function: Callable[..., tuple[R, Floats]],
    items: Items,
    tasks: Iterable[tuple[Any, ...]],
    shape: tuple[int, int],
    done: Callable[[R], None],
) -> Rows:
    """Return the matrix (N, D) whose rows start to stop `function(items, start, stop, *more)` makes.

    The `tasks` (start, stop, *more) cover all rows in order. The function returns something else too, with which
    `done` is called, in order.
    """
    if is_elsewhere(work):
        spanned = list(tasks)
        blocks = []
        for result, block in work.blocks(function, items, spanned):
            blocks.append(block)
            done(result)
        return StoredRows(shape, (*(start for start, *_ in spanned), shape[0]), tuple(blocks))
    made = scratch_rows(*shape)
    shared = made if isinstance(made, FileRows) else None
    for start, result, rows in work.map(partial(_written, function, shared), items, tasks):
        if rows is not None:
            made.put(start, rows)
        done(result)
    return made


def collect_rows(
    work: RayWork, find: Callable[..., Iterator[PlacedRows]], parts: Sequence[tuple[Any, ...]], shape: tuple[int, int]
) -> tuple[Rows, NDArray[np.bool_]]:
    """Return a matrix (N, D) of the rows that `find(*part)` yields, and which rows these are, (N,).

    There is at least one part. A row that several parts have is that of the first of them; a row of none is undefined.
    Tasks spread what a part has over spans of the matrix, then others put together each span: no row comes here.
    """
    import ray

    edges = (*(start for start, _ in spans(shape[0])), shape[0])
    count, finder = len(edges) - 1, ray.put(find)
    scatter, join = work.remote(_scattered, count), work.remote(_joined, 2)
    answers = [scatter.remote(finder, edges, *part) for part in parts]
    columns = zip(*([each] if count == 1 else each for each in answers), strict=True)
    heights = (stop - start for start, stop in pairwise(edges))
    made = [join.remote(height, shape[1], *pieces) for height, pieces in zip(heights, columns, strict=True)]
    present = np.concatenate([ray.get(mask) for mask, _ in made])
    return StoredRows(shape, edges, tuple(block for _, block in made)), present


def _scattered(find: Callable[..., Iterator[PlacedRows]], edges: tuple[int, ...], *part: Any) -> Any:
    """Return what `find` yields of a part, for each span, with row numbers within it."""
    spread: list[list[PlacedRows]] = [[] for _ in edges[1:]]
    for rows, vectors in find(*part):
        cuts = np.searchsorted(rows, edges)
        for span in np.flatnonzero(np.diff(cuts)):
            some = slice(cuts[span], cuts[span + 1])
            spread[span].append((rows[some] - edges[span], vectors[some]))
    return spread[0] if len(spread) == 1 else tuple(spread)


def _joined(height: int, width: int, *pieces: list[PlacedRows]) -> tuple[NDArray[np.bool_], Floats]:
    present, block = np.zeros(height, np.bool_), np.zeros((height, width), np.float32)
    for rows, vectors in chain.from_iterable(pieces):
        new = ~present[rows]
        block[rows[new]], present[rows] = vectors[new], True
    return present, block


def _written(
    function: Callable[..., tuple[R, Floats]], made: FileRows | None, items: Items, start: int, stop: int, *more: Any
) -> tuple[int, R, Floats | None]:
    """Write the rows to the scratch file; return them if there is none."""
    result, rows = function(items, start, stop, *more)
    if made is None:
        return start, result, rows
    made.put(start, rows)
    return start, result, None
