"""Processes that may be killed: a fork of this process for each run, so that a run costs no imports.

The process that forks has one thread of Python and has used none of the libraries that it has imported.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_S = 0.002
LONGEST_S = 300
FAILED = 70
"""Exit code of a process whose work raised."""


@dataclass(frozen=True)
class Ended:
    """The end of a process: its exit code, None if it was killed, and the seconds that it lived."""

    code: int | None
    seconds: float


def started(work: Callable[[], int], output: Path) -> int:
    """Begin `work` in a process of its own group; return its number once it has that group."""
    grouped, group = os.pipe()
    child = os.fork()
    if not child:
        _work(work, output, group)
    os.close(group)
    os.read(grouped, 1)  # ends as the child closes its side
    os.close(grouped)
    return child


def forked(
    work: Callable[[], int], output: Path, kill_after: float | None = None, longest_s: float = LONGEST_S
) -> Ended:
    """Do `work` in a process of its own group. After some seconds, or where it stops itself, all of it is killed.

    Raise RuntimeError if it does not end.
    """
    start = time.monotonic()
    child = started(work, output)
    while True:
        found, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        lived = time.monotonic() - start
        if found and os.WIFSTOPPED(status):
            kill(child)
            return Ended(None, lived)
        if found:
            return Ended(os.waitstatus_to_exitcode(status), lived)
        if kill_after is not None and lived >= kill_after:
            kill(child)
            return Ended(None, lived)
        if lived > longest_s:
            kill(child)
            raise RuntimeError(f"a run did not end within {longest_s:.0f} s: {output.read_text()[-2000:]}")
        time.sleep(POLL_S)


def kill(child: int) -> None:
    """Kill a process, its group and all that they started (`kill -9`), and wait for their ends."""
    started = psutil.Process(child).children(recursive=True)
    os.killpg(child, signal.SIGKILL)
    for each in (psutil.Process(child), *started):  # Ray's processes are in groups of their own
        with suppress(psutil.NoSuchProcess):
            each.kill()
    os.waitpid(child, 0)
    psutil.wait_procs(started, timeout=30)


def _work(work: Callable[[], int], output: Path, group: int) -> None:
    """Do the work of a child, whose output goes to a file. It ends here, without what this process does at its end.

    The descriptor `group` is closed once the child has a group of its own.
    """
    code = FAILED
    try:
        os.setsid()
        os.close(group)
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        code = work()
    except BaseException as error:  # noqa: BLE001 - the parent has to learn of any end
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)
