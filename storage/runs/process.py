"""The process of a run: known by host, number and start, because numbers of processes are used again."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ZOMBIE = "Z"


def this_process() -> dict[str, Any]:
    """Return host, number and start of this process, as a run records them.

    `born` counts ticks of the kernel since the machine started; it is None on systems without /proc.
    """
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _stat(os.getpid())[1]}


def may_live(process: Mapping[str, Any]) -> bool:
    """Return False if a recorded process is known to be gone: it was of this machine, and no process is the same.

    A zombie counts as gone: a killed process stays one until its parent asks for its end, which some parents never do.
    """
    if process.get("host") != socket.gethostname():
        return True
    if "pid" not in process or not _exists(int(process["pid"])):
        return False
    state, born = _stat(int(process["pid"]))
    known = process.get("born")  # runs of older programs have not recorded it
    return state != ZOMBIE and (known is None or born is None or born == known)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _stat(pid: int) -> tuple[str, int | None]:
    """Return state and start of a process, by /proc; ("", None) where it does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError):
        return "", None
