"""End of a command that a signal stops: Ctrl-C, or the SIGTERM of `kill`, `docker stop` and `systemctl stop`."""

import os
import signal
from dataclasses import dataclass
from typing import Any, NoReturn

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a command that Ctrl-C ended."""


class Terminated(KeyboardInterrupt):
    """Raised in the main thread at SIGTERM, so that whatever ends well at Ctrl-C ends well at SIGTERM too."""


@dataclass
class CommandState:
    """State of the command of this process: whether it only starts a run, whether the run began, what stopped it.

    Until its words are understood, any command has changed nothing.
    """

    starts_run: bool = True
    run_began: bool = False
    stopped_by: int = 0


state = CommandState()
"""State of the one command that this process runs."""


def raise_at_signals() -> None:
    """Have SIGINT and SIGTERM raise exceptions from now on, if nobody else handles them, and remember which one came.

    A library may put an error of its own in the place of the exception. A second SIGTERM kills the process. During a
    flow run Prefect handles SIGTERM, and sends it again when the run has ended as cancelled.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def message() -> str:
    """Return what a stopped command says."""
    if state.starts_run and not state.run_began:
        return "stopped: nothing was begun or changed. The same command starts it anew."
    return "interrupted. What was committed stays; the same command continues from there."


def _interrupt(*_: Any) -> NoReturn:
    state.stopped_by = signal.SIGINT
    if _nothing_is_begun():
        os._exit(INTERRUPTED)
    raise KeyboardInterrupt


def _terminate(*_: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    state.stopped_by = signal.SIGTERM
    if _nothing_is_begun():
        os.kill(os.getpid(), signal.SIGTERM)
    raise Terminated


def _nothing_is_begun() -> bool:
    """Return whether no run was begun, and say so.

    Then there is nothing to end well, and an exception may be lost: libraries that are imported catch any.
    """
    if not state.starts_run or state.run_began:
        return False
    os.write(2, f"sidmill: {message()}\n".encode())
    return True
