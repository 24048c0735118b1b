"""Execution of stages in this process or on a Ray cluster, with the same resulting bytes.

`Compute.run` executes a function; `Compute.map` streams Arrow batches through a stage. This module holds every
`map_batches` call. The cluster (`pipelines.compute.cluster`) is connected to on first use.
"""

import re
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import pyarrow as pa

from learning.progress import emit, emit_epoch, progress_listener
from learning.threads import one_thread
from pipelines.compute.cluster import begin_to_connect, connect, fix_threads, machine_cpus
from pipelines.compute.placement import StageError, placement
from pipelines.compute.shared_rows import shared, shared_items
from pipelines.spec import ComputeSpec
from tokenizer.arrays.executor import LOCAL_THREADS, Executor
from tokenizer.arrays.types import Floats
from tokenizer.arrays.vectors import SPAN, Items, Rows

P = ParamSpec("P")
R = TypeVar("R")
ProgressReport = str | tuple[str, Mapping[str, float], int] | None
"""A line of progress, or the label of a training and the row of an epoch; None at the end."""
MAX_BLOCKS = 1 << 10
"""Blocks of a stage of many rows: each costs the cluster some milliseconds, whatever is in it."""
RETRIES = 2
"""Further tries of a function whose worker died."""


class WorkerDied(RuntimeError):
    """Raised when a process that runs a stage dies: killed, out of memory, or crashed by a row."""


class Stage(Protocol):
    """A map from an Arrow batch to an Arrow batch with the same rows. Heavy models load in `__init__`.

    `reads` names the columns it needs and may drop, `adds` the columns it appends; `apply` checks both. Every stage
    appends `reason`, which is null for an accepted row and else the quarantine reason, and `detail`.
    """

    @property
    def reads(self) -> tuple[str, ...]: ...

    @property
    def adds(self) -> tuple[str, ...]: ...

    def __call__(self, batch: pa.Table) -> pa.Table: ...


class Compute(Protocol):
    """Executor of functions and stages."""

    name: str

    @property
    def work(self) -> Executor: ...

    def prepare(self) -> None:
        """Begin to make ready what `run` needs; it goes on while other work is done here."""

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the function's result, computed on one thread: fits must give the same bytes on every machine."""

    def map(
        self, make: Callable[..., Stage], arguments: dict[str, Any], table: pa.Table, rows: int
    ) -> Iterator[pa.Table]: ...

    def shared(self, rows: Rows) -> Rows:
        """Return vectors for an argument of `run`, readable where it runs."""


def chunks(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    """Yield consecutive slices of at most `rows` rows."""
    for start in range(0, table.num_rows, rows):
        yield table.slice(start, rows)


def apply(stage: Stage, batch: pa.Table) -> pa.Table:
    """Run the stage on `batch`; raise TypeError if input or output differs from what the stage declares."""
    name = type(stage).__name__
    if missing := set(stage.reads) - set(batch.column_names):
        raise TypeError(f"stage {name} reads columns {sorted(missing)}, but its input only has {batch.column_names}")
    answer = stage(batch)
    given, got, added = set(batch.column_names), set(answer.column_names), set(stage.adds)
    if not given - set(stage.reads) | added <= got <= given | added or answer.num_rows != batch.num_rows:
        raise TypeError(
            f"stage {name} returned {answer.num_rows} rows with columns {sorted(got)} for {batch.num_rows} rows with "
            f"columns {sorted(given)}; it declares that it reads {sorted(stage.reads)} and adds {sorted(added)}"
        )
    return answer


class InProcess:
    """Executor in this process, one batch after another."""

    name = "in process"
    work: Executor = LOCAL_THREADS

    def __init__(self, spec: ComputeSpec) -> None:
        self._spec = spec

    def prepare(self) -> None:
        """Do nothing: this process is ready."""

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        with one_thread():
            return function(*args, **kwargs)

    def map(
        self, make: Callable[..., Stage], arguments: dict[str, Any], table: pa.Table, rows: int
    ) -> Iterator[pa.Table]:
        if table.num_rows == 0:
            return
        stage = make(**arguments)
        for batch in chunks(table, rows):
            yield apply(stage, batch)

    def shared(self, rows: Rows) -> Rows:
        return rows


class OnRay:
    """Executor on the cluster at RAY_ADDRESS, or on a local one that is kept until `shutdown`."""

    name = "on Ray"

    def __init__(self, spec: ComputeSpec) -> None:
        self._spec = spec
        self.work: Executor = RayWork(spec)

    def prepare(self) -> None:
        begin_to_connect(self._spec)

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function` as one Ray task and report its progress here; an interrupt here cancels the task.

        If its worker dies, it is run again, at most RETRIES times, and reports again what it does again. Ray's own
        retries would skip as many reports as have come; a training that goes on from a checkpoint makes fewer, and its
        result would be skipped too.
        """
        import ray
        from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

        connect(self._spec)
        task = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(_reports_and_result)
        for left in reversed(range(RETRIES + 1)):
            try:
                return cast(R, _result_of(task.remote(function, args, kwargs)))
            except (WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError):
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def map(
        self, make: Callable[..., Stage], arguments: dict[str, Any], table: pa.Table, rows: int
    ) -> Iterator[pa.Table]:
        """Stream `table` in batches of `rows` rows through actors that hold the stage; results come in any order.

        Of many rows, several batches are sent and returned together, as a block.
        Raise WorkerDied if an actor dies: the batches it held are lost, those already returned are not.
        """
        import ray.data
        import ray.exceptions
        from ray.util.annotations import RayDeprecationWarning

        if table.num_rows == 0:
            return
        connect(self._spec)
        blocks = list(chunks(table, rows * max(1, table.num_rows // (rows * MAX_BLOCKS))))
        stage, workers = placement(self._spec, make, len(blocks), ray.cluster_resources())
        actor = _actor_of(make, arguments, max(1, int(stage.num_cpus), machine_cpus() // workers))
        with warnings.catch_warnings():
            # Deprecated, but the only way in the pinned version to make the stage fail when an actor dies. A retried
            # stage resumes after its last commit.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset = ray.data.from_arrow(blocks).map_batches(
                actor,
                batch_format="pyarrow",
                batch_size=rows,
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=stage.num_cpus,
                num_gpus=stage.num_gpus,
                resources=stage.resources or None,
                ray_remote_args_fn=lambda: {"max_restarts": 0},
            )
        try:
            yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
        except ray.exceptions.RayActorError as error:
            if error.actor_init_failed:
                raise StageError(f"stage {make.__name__} could not start: {str(error).splitlines()[-1]}") from error
            raise WorkerDied(f"a worker of stage {make.__name__} died; {_exit_of(str(error))}") from error

    def shared(self, rows: Rows) -> Rows:
        connect(self._spec)
        return shared(rows)


class RayWork:
    """Executor of functions on spans of items as Ray tasks.

    A task whose worker dies is rerun: its result depends on its items only. A single task, and tasks over the items of
    one span, run in this process, because sending them away costs more than it gains.
    """

    def __init__(self, spec: ComputeSpec, task_cpus: float = 1) -> None:
        """Set `task_cpus`, the CPUs that a task takes; they bound the number of concurrent tasks."""
        self._spec, self._task_cpus = spec, task_cpus
        self._shared: tuple[Items, Any] | None = None

    def map(self, function: Callable[..., R], items: Items, tasks: Iterable[tuple[Any, ...]]) -> Iterator[R]:
        import ray

        tasks = iter(tasks)
        head = list(islice(tasks, 2))
        if len(head) < 2 or 0 < len(items) <= SPAN:
            with one_thread():
                done = list(LOCAL_THREADS.map(function, items, chain(head, tasks)))
            yield from done
            return
        with closing(self._answers(function, items, chain(head, tasks), 1)) as answers:
            for result in answers:
                yield ray.get(result)

    def blocks(
        self, function: Callable[..., tuple[R, Floats]], items: Items, tasks: Iterable[tuple[Any, ...]]
    ) -> Iterator[tuple[R, Any]]:
        """Yield, of the two things that each task returns, the first, and a reference to the second.

        That stays in the object store of the node that made it.
        """
        import ray

        with closing(self._answers(function, items, tasks, 2)) as answers:
            for result, block in answers:
                yield ray.get(result), block

    def remote(self, function: Callable[..., Any], returns: int) -> Any:
        """Return a function as a task of the cluster, which returns so many objects; `remote` of it submits one."""
        import ray

        connect(self._spec)
        return ray.remote(num_cpus=self._task_cpus, max_retries=3, num_returns=returns)(function)

    def _answers(
        self, function: Callable[..., Any], items: Items, tasks: Iterable[tuple[Any, ...]], returns: int
    ) -> Generator[Any, None, None]:
        """Yield the references to what each task returns, in order; few tasks wait at a time.

        Closing it cancels those that wait.
        """
        import ray

        remote = self.remote(_on_span, returns)
        if self._shared is None or self._shared[0] is not items:
            self._shared = items, ray.put(shared_items(items))
        work, stored = ray.put(function), self._shared[1]
        window = 2 * int(ray.cluster_resources().get("CPU", 1))
        waiting: deque[Any] = deque()
        try:
            for task in tasks:
                waiting.append(remote.remote(work, stored, *task))
                if len(waiting) >= window:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for reference in waiting:
                ray.cancel(reference if returns == 1 else reference[0], force=True)


def _on_span(function: Callable[..., R], items: Items, *task: Any) -> R:
    return _on_one_thread(function, (items, *task), {})


def _exit_of(message: str) -> str:
    """Return Ray's message on how a process ended, without the advice that follows."""
    found = re.search(r"Worker exit type: .*?(?= Some common causes|$)", message, re.MULTILINE)
    return found[0] if found else message.splitlines()[0]


def _actor_of(make: Callable[..., Stage], arguments: dict[str, Any], threads: int) -> type:
    """Return a class for Ray Data actors: the stage, with the thread count of its share of the machine."""

    class StageActor:
        def __init__(self) -> None:
            fix_threads(threads)
            self._stage = make(**arguments)

        def __call__(self, batch: pa.Table) -> pa.Table:
            return apply(self._stage, batch)

    return StageActor


def _result_of(answers: Any) -> Any:
    """Return the result of a task of `_reports_and_result`; its reports go to the listener here."""
    import ray

    result = None
    try:
        for answer in answers:
            report, result = ray.get(answer)
            if isinstance(report, str):
                emit(report)
            elif report is not None:
                emit_epoch(*report)
    except BaseException:
        ray.cancel(answers, force=True)
        raise
    return result


def _reports_and_result(
    function: Callable[..., R], args: Any, kwargs: Any
) -> Iterator[tuple[ProgressReport, R | None]]:
    """Yield (report, None) for each line of progress and each epoch of the function, then (None, result)."""
    reports = SimpleQueue[ProgressReport]()

    def run() -> R:
        with progress_listener(reports.put, lambda *epoch: reports.put(epoch)):
            return _on_one_thread(function, args, kwargs)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        running.add_done_callback(lambda _: reports.put(None))
        while (report := reports.get()) is not None:
            yield report, None
        yield None, running.result()


def _on_one_thread(function: Callable[..., R], args: Any, kwargs: Any) -> R:
    fix_threads(1)
    with one_thread():
        return function(*args, **kwargs)
