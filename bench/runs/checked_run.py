"""A `sidmill` command whose checks of files are timed, in this process: `python -m bench.runs.checked_run OUT run ...`.

A thread looks every LOOK_S seconds at what all threads do. A look counts as a check if a function of CHECKS is at work.
The checksums of pages that Arrow compares while it decodes are not among them.
"""

import json
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from flows.cli.main import run_command

LOOK_S = 0.005
CHECKS = {
    "storage/files/data_files.py": {"check_footers", "_check_footer", "check_whole"},
    "storage/files/blobs.py": {"check", "_require"},
    "storage/files/store.py": {"hash", "sha256"},
    "storage/files/table_log.py": {"require_whole"},
    "storage/releases/integrity.py": {"check_pinned", "check_file"},
    "storage/releases/completeness.py": {"lost_commits"},
}
"""Functions that check what was written before, by the end of their file's path."""


def is_check(frame: FrameType | None) -> bool:
    """Return whether a function of CHECKS is on a stack."""
    while frame is not None:
        code = frame.f_code
        names = CHECKS.get("/".join(code.co_filename.rsplit("/", 3)[1:]))
        if names is not None and code.co_name in names:
            return True
        frame = frame.f_back
    return False


def main() -> int:
    """Run the command, write the seconds and those of checks as JSON, and return its exit code."""
    out, *command = sys.argv[1:]
    over, looks, checks = threading.Event(), 0, 0

    def look() -> None:
        nonlocal looks, checks
        me = threading.get_ident()
        while not over.wait(LOOK_S):
            looks += 1
            checks += any(is_check(frame) for thread, frame in sys._current_frames().items() if thread != me)

    threading.Thread(target=look, name="looks", daemon=True).start()
    began = time.perf_counter()
    try:
        return run_command(command)
    finally:
        over.set()
        seconds = time.perf_counter() - began
        Path(out).write_text(json.dumps({"seconds": seconds, "checks": seconds * checks / max(looks, 1)}))


if __name__ == "__main__":
    sys.exit(main())
