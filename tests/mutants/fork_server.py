"""Runs tests in forks of a process that has the libraries imported, so that a run costs what its tests cost.

Reads one JSON object a line: `arguments` of pytest, `seconds` it may take, and whether it `compiles` (keeps .pyc
files). Answers each with a line: passed, failed or timeout. Nothing of the checkout is imported before the fork.
"""

import gc
import importlib
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

LIBRARIES = (
    "numpy",
    "scipy.optimize",
    "scipy.sparse",
    "torch",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "polars",
    "deltalake",
    "pydantic",
    "safetensors",
    "sklearn.decomposition",
    "hypothesis.strategies",
    "pytest",
    "pytest_timeout",
    "_hypothesis_pytestplugin",
    "ot",
)
POLL_S = 0.01


def serve() -> None:
    sys.path.insert(0, str(Path.cwd()))
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
    for name in LIBRARIES:
        importlib.import_module(name)
    _same_examples()
    gc.freeze()  # forks do not look through the libraries for garbage
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        asked = json.loads(line)
        print(judged(asked["arguments"], asked["seconds"], asked["compiles"]), file=answers)


def _same_examples() -> None:
    """The same examples for every mutant; a counterexample is enough, the smallest one is not looked for."""
    from hypothesis import Phase, settings

    phases = [Phase.explicit, Phase.generate]
    once = settings(derandomize=True, database=None, deadline=None, max_examples=50, phases=phases)
    settings.register_profile("mutants", once)
    settings.load_profile("mutants")


def judged(arguments: list[str], seconds: float, compiles: bool) -> str:
    """Run pytest in a fork and wait for it; what it started ends with it."""
    child = os.fork()
    if not child:
        os._exit(_tests(arguments, compiles))
    try:
        return _verdict(child, time.monotonic() + seconds)
    finally:
        with suppress(ProcessLookupError):  # the usual end: nobody is left
            os.killpg(child, signal.SIGKILL)


def _verdict(child: int, until: float) -> str:
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "passed" if os.waitstatus_to_exitcode(status) == 0 else "failed"
        time.sleep(POLL_S)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _tests(arguments: list[str], compiles: bool) -> int:
    os.setsid()
    log = os.open("mutant.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    # A mutant may have the size and the second of the one before it: no .pyc file may tell of it.
    sys.dont_write_bytecode = not compiles
    import pytest

    try:
        return int(pytest.main(arguments))
    except BaseException as error:  # noqa: BLE001  a mutant may raise anything, from pytest's own hooks too
        print(repr(error), file=sys.stderr)
        return 1
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
