"""A command that a signal stops says what that means, also where the signal comes before its run has begun."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from flows.cli.main import run_command
from flows.runtime import stopped
from storage.lake import Lake
from storage.runs.record import runs

ROOT = Path(__file__).parents[2]
BEFORE = "sidmill: stopped: nothing was begun or changed. The same command starts it anew."


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
@pytest.mark.parametrize("after", ["", "loading the libraries"])
def test_a_run_that_is_stopped_before_it_begins_says_so_and_leaves_nothing(
    lake_of_format_2: Lake, tmp_path: Path, number: signal.Signals, code: int, after: str
) -> None:
    (tmp_path / "new.jsonl").write_text('{"item_id": "new", "title": "new"}\n')
    command = [sys.executable, "-m", "flows.cli.main", "run", "nightly", "--items", str(tmp_path / "new.jsonl")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect")}
    process = subprocess.Popen(
        [*command, "--lake", lake_of_format_2.uri],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore SIGINT
    )
    try:
        assert process.stderr is not None
        if after:
            assert process.stderr.readline().startswith(after)
        else:
            wait_for_handler(process.pid, number)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert said.splitlines()[-1] == BEFORE
    assert process.returncode == code
    assert not any(run.parameters.get("items") == [str(tmp_path / "new.jsonl")] for run in runs(lake_of_format_2))


def wait_for_handler(pid: int, number: int) -> None:
    """Wait until a process handles a signal."""
    for _ in range(600):
        line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
        if int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.05)
    raise TimeoutError(f"{pid} does not handle {number}")


def test_what_a_library_makes_of_the_exception_of_a_signal_is_not_taken_for_a_failure(
    lake_of_format_2: Lake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopped, "state", stopped.CommandState(stopped_by=signal.SIGTERM))
    shutil.rmtree(lake_of_format_2.path("releases"))  # any failure
    assert run_command(["release", "show", "r-000001", "--lake", lake_of_format_2.uri]) == 143
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "sidmill: interrupted. What was committed stays; the same command continues from there."
