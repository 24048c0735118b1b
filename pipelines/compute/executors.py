"""Execution of jobs in this process or on a Ray cluster, with the same resulting bytes.

`Compute.run` executes a function; `Compute.map` a job, unit by unit. This module holds every `map_batches` call. The
cluster (`pipelines.compute.cluster`) is connected to on first use.
"""

import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import pyarrow as pa

from learning.progress import emit, emit_epoch, progress_listener
from learning.threads import one_thread
from pipelines.compute.cluster import begin_to_connect, connect, fix_threads, machine_cpus
from pipelines.compute.placement import StageError, placement, task_options
from pipelines.compute.shared_rows import shared, shared_items
from pipelines.spec import TASKS, ComputeSpec
from storage.hashing.content_hash import hash_in_place
from tokenizer.arrays.executor import LOCAL_THREADS, Executor
from tokenizer.arrays.types import Floats
from tokenizer.arrays.vectors import SPAN, Items, Rows

P = ParamSpec("P")
R = TypeVar("R")
U = TypeVar("U", contravariant=True)
D = TypeVar("D", covariant=True)
ProgressReport = str | tuple[str, Mapping[str, float], int] | None
"""A line of progress, or the label of a training and the row of an epoch; None at the end."""
MAX_BLOCKS = 1 << 10
"""Blocks of a job of many units: each costs the cluster some milliseconds, whatever is in it."""
RETRIES = 2
"""Further tries of a function whose worker died."""


class WorkerDied(RuntimeError):
    """Raised when a process that runs a stage dies: killed, out of memory, or crashed by a row."""


class Job(Protocol[U, D]):
    """Work on units, such as rows of a file, in processes that load something first, such as a model.

    `stage` names it in `compute.stages`, and tells by `uses_gpu` whether it wants a GPU.
    """

    @property
    def stage(self) -> Callable[..., Any]: ...

    def start(self) -> Callable[[U], D]:
        """Load what is needed; return the function of a unit."""


class Compute(Protocol):
    """Executor of functions and jobs."""

    name: str

    @property
    def work(self) -> Executor: ...

    def prepare(self, items: int = 0) -> None:
        """Begin to make ready what work on so many items needs; it goes on while other work is done here."""

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the function's result, computed on one thread: fits must give the same bytes on every machine."""

    def map(self, job: Job[U, D], units: Sequence[U]) -> Iterator[tuple[int, D]]:
        """Yield the number of each unit of a job and what is made of it, in any order."""

    def shared(self, rows: Rows) -> Rows:
        """Return vectors for an argument of `run`, readable where it runs."""


class InProcess:
    """Executor in this process, one batch after another."""

    name = "in process"
    work: Executor = LOCAL_THREADS

    def __init__(self, spec: ComputeSpec) -> None:
        self._spec = spec

    def prepare(self, items: int = 0) -> None:
        """Do nothing: this process is ready."""

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        with one_thread():
            return function(*args, **kwargs)

    def map(self, job: Job[U, D], units: Sequence[U]) -> Iterator[tuple[int, D]]:
        work = job.start() if units else None
        yield from ((number, work(unit)) for number, unit in enumerate(units) if work)

    def shared(self, rows: Rows) -> Rows:
        return rows


class OnRay:
    """Executor on the cluster at RAY_ADDRESS, or on a local one that is kept until `shutdown`."""

    name = "on Ray"

    def __init__(self, spec: ComputeSpec) -> None:
        self._spec = spec
        self.work: Executor = RayWork(spec)

    def prepare(self, items: int = 0) -> None:
        begin_to_connect(self._spec, load=items > SPAN)

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function` as one Ray task and report its progress here; an interrupt here cancels the task.

        If its worker dies, it is run again, at most RETRIES times, and reports again what it does again. Ray's own
        retries would skip as many reports as have come; a training that goes on from a checkpoint makes fewer, and its
        result would be skipped too.
        """
        import ray
        from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

        connect(self._spec)
        options = task_options(self._spec, ray.cluster_resources())
        task = ray.remote(max_retries=0, num_returns="streaming", **options)(_reports_and_result)
        for left in reversed(range(RETRIES + 1)):
            try:
                return cast(R, _result_of(task.remote(function, args, kwargs)))
            except (WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError):
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def map(self, job: Job[U, D], units: Sequence[U]) -> Iterator[tuple[int, D]]:
        """Send units through actors that hold what the job starts.

        Of many units, several are sent and returned together, as a block. Raise WorkerDied if an actor dies: the units
        that it and others held are not yielded.
        """
        import ray.data
        import ray.exceptions
        from ray import cloudpickle
        from ray.util.annotations import RayDeprecationWarning

        if not units:
            return
        connect(self._spec)
        table = pa.table({"number": range(len(units)), "unit": [cloudpickle.dumps(unit) for unit in units]})
        each = max(1, len(units) // MAX_BLOCKS)
        blocks = [table.slice(start, each) for start in range(0, len(units), each)]
        stage, workers = placement(self._spec, job.stage, len(blocks), ray.cluster_resources())
        actor = _actor_of(job, max(1, int(stage.num_cpus), machine_cpus() // workers))
        with warnings.catch_warnings():
            # Deprecated, but the only way in the pinned version to make the stage fail when an actor dies. A retried
            # stage resumes after its last commit.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset = ray.data.from_arrow(blocks).map_batches(
                actor,
                batch_format="pyarrow",
                batch_size=each,  # a number, which Ray Data asks for where workers take GPUs
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=stage.num_cpus,
                num_gpus=stage.num_gpus,
                resources=stage.resources or None,
                ray_remote_args_fn=lambda: {"max_restarts": 0},
            )
        try:
            for done in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                for number, pickled in zip(done["number"].to_pylist(), done["made"].to_pylist(), strict=True):
                    made = cloudpickle.loads(pickled)
                    if isinstance(made, _Raised):
                        raise made.error
                    yield number, made
        except ray.exceptions.RayActorError as error:
            name = job.stage.__name__
            if error.actor_init_failed:
                raise StageError(f"stage {name} could not start: {str(error).splitlines()[-1]}") from error
            raise WorkerDied(f"a worker of stage {name} died; {_exit_of(str(error))}") from error

    def shared(self, rows: Rows) -> Rows:
        connect(self._spec)
        return shared(rows)


class RayWork:
    """Executor of functions on spans of items as Ray tasks.

    A task whose worker dies is rerun: its result depends on its items only. A single task, and tasks over the items of
    one span, run in this process, because sending them away costs more than it gains.
    """

    def __init__(self, spec: ComputeSpec) -> None:
        self._spec = spec
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
        options = task_options(self._spec, ray.cluster_resources())
        return ray.remote(max_retries=3, num_returns=returns, **options)(function)

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


@dataclass(frozen=True)
class _Raised:
    """An error of a unit. Ray Data would wrap it, and the message and the type that tell what to do would be lost."""

    error: Exception


def _actor_of(job: Job[Any, Any], threads: int) -> type:
    """Return a class for Ray Data actors: what a job starts, with the thread count of its share of the machine."""

    class JobActor:
        def __init__(self) -> None:
            fix_threads(threads, torch_too=getattr(job.stage, "name", "") != TASKS)
            os.environ["POLARS_MAX_THREADS"] = str(threads)
            hash_in_place()
            self._work = job.start()

        def __call__(self, batch: pa.Table) -> pa.Table:
            made = [self._made(unit) for unit in batch["unit"].to_pylist()]
            return batch.select(["number"]).append_column("made", pa.array(made, pa.binary()))

        def _made(self, unit: bytes) -> bytes:
            from ray import cloudpickle

            try:
                return cast(bytes, cloudpickle.dumps(self._work(cloudpickle.loads(unit))))
            except Exception as error:  # noqa: BLE001 - raised by the process that asked
                pickled = cloudpickle.dumps(_Raised(error))
                try:
                    cloudpickle.loads(pickled)
                except Exception:  # noqa: BLE001 - an error of a library that cannot be made from its message
                    pickled = cloudpickle.dumps(_Raised(RuntimeError(f"{type(error).__name__}: {error}")))
                return cast(bytes, pickled)

    return JobActor


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
