"""A step is tried again after a fault of the machine, and not after one of the input or of the program."""

import asyncio

import pytest
from prefect.states import exception_to_failed_state

from flows.steps.task import _is_retryable
from learning.errors import LossDiverged, TrainingFailed
from storage.errors import CommitConflict, DataCorrupt


@pytest.mark.parametrize(
    ("error", "again"),
    [
        *((error, True) for error in (OSError(28, "full"), ConnectionError("lost"), CommitConflict("x"))),
        (TrainingFailed("workers died"), True),
        *((error, False) for error in (ValueError("x"), KeyError("x"), DataCorrupt("x"), LossDiverged(1.0, []))),
        *((error, False) for error in (AttributeError("x"), NameError("x"), ImportError("x"), AssertionError("x"))),
    ],
)
def test_what_is_tried_again(error: Exception, again: bool) -> None:
    async def asked() -> bool:
        return await _is_retryable(None, None, await exception_to_failed_state(error))

    assert asyncio.run(asked()) is again
