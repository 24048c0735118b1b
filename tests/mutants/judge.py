"""Tests of one module, run by the fork server, and how long they may take."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).parent
IN_MEMORY = Path("/dev/shm")
FIRST_S, AT_LEAST_S, TIMES = 600.0, 20.0, 5


class Judge:
    """Runs tests in forks. Their temporary files lie in memory where that can be: they wait for no disk."""

    def __init__(self, python: str) -> None:
        one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
        self._scratch = tempfile.mkdtemp(prefix="mutants-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None)
        self._seconds = FIRST_S
        self._server = subprocess.Popen(
            [python, str(HERE / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **one},
            text=True,
        )

    def __enter__(self) -> "Judge":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def verdict(self, tests: str, compiles: bool = False) -> str:
        """Run the tests; return passed, failed or timeout."""
        fixed = ["-x", "-q", "-m", "not slow", "-p", "no:xdist", "-p", "no:anyio", f"--basetemp={self._scratch}/tests"]
        asked = {"arguments": [*fixed, *shlex.split(tests)], "seconds": self._seconds, "compiles": compiles}
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline().strip() or sys.exit("the fork server ended; its message is above")

    def learn(self, tests: str, path: Path) -> None:
        """The unchanged module must pass. That leaves .pyc files of all modules but this one, and says how long a
        mutant may take."""
        self._seconds = FIRST_S
        for compiles in (True, False):
            began = time.monotonic()
            if self.verdict(tests, compiles) != "passed":
                sys.exit(f"the tests of {path} fail without a change:\n{Path('mutant.log').read_text()[-3000:]}")
            for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
                compiled.unlink()
        took = time.monotonic() - began
        self._seconds = max(AT_LEAST_S, TIMES * took)
        print(f"{path}: the tests take {took:.1f} s", flush=True)
