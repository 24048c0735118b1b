"""Conversion of a step to a Prefect task: retried on faults of the machine, never on faults of the input."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.utilities.annotations import opaque

from infra.addresses import hide_secrets
from learning.errors import TrainingError, TrainingFailed
from storage.errors import CommitConflict, LakeError, PointerMoved

P = ParamSpec("P")
R = TypeVar("R")

RETRIES = 2
RETRY_DELAYS_S = (1, 10)
"""Further tries of a step after a fault of the machine, and seconds before each: for a connection that is lost, and a
service that starts again. An input that fails is not tried again."""

FAULTS_THAT_STAY = (
    *(ValueError, LakeError, TrainingError),
    *(TypeError, LookupError, AssertionError, AttributeError, NameError, ImportError),
)
"""Faults of the input, and of the program."""


def step(function: Callable[P, R]) -> Callable[P, R]:
    """Make a Prefect task that keeps no result (the lake does) and may be run again at any point."""

    def run(held: _Call) -> None:
        held.result = telling(*held.arguments, **held.named)

    telling = without_secrets_in_errors(function)
    made: Any = task(
        name=function.__name__.replace("_", " "),
        retries=RETRIES,
        retry_delay_seconds=list(RETRY_DELAYS_S),
        retry_condition_fn=_is_retryable,
        cache_policy=NO_CACHE,
        persist_result=False,
        log_prints=False,
    )(run)

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        held = _Call(arguments, named)
        try:
            made(opaque(held))  # else Prefect looks through all that it holds for results that are awaited
            result: R = held.result
            return result
        finally:
            held.clear()

    return call


@dataclass
class _Call:
    """Arguments and result of a step. Prefect keeps what it is given until the flow ends, so this is emptied before."""

    arguments: tuple[Any, ...]
    named: dict[str, Any]
    result: Any = None

    def clear(self) -> None:
        self.arguments, self.named, self.result = (), {}, None


def without_secrets_in_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Hide the secrets in what the function raises: Prefect records the errors of a task with their messages."""

    @wraps(function)
    def telling(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return function(*arguments, **named)
        except BaseException as error:
            hide_secrets(error)
            raise

    return telling


async def _is_retryable(task: Any, run: Any, state: Any) -> bool:
    """Return False for wrong input or a faulty program, True for a lost worker, a full socket, a lost race."""
    try:
        await state.aresult(raise_on_failure=True)
    except (CommitConflict, PointerMoved, TrainingFailed):
        return True
    except FAULTS_THAT_STAY:
        return False
    except Exception:  # noqa: BLE001 - every other failure is retried
        return True
    return True
