"""Interrupting a run from outside, also one whose process ignores SIGINT because a script started it with `&`."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.cli.main import run_command
from flows.runtime.cancellation import interrupt
from storage.lake import Lake
from storage.runs.record import RunRecord

WAITING = """
import signal, sys, time
def ended(*_):
    sys.exit(44)
signal.signal(signal.SIGTERM, ended)
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(43)
"""


def ignore() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def heed() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def waiting(before: Callable[[], None]) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True, preexec_fn=before)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(("before", "code"), [(heed, 43), (ignore, 44)])
def test_a_process_is_interrupted_by_a_signal_that_it_heeds(before: Callable[[], None], code: int) -> None:
    with waiting(before) as process:
        interrupt(process.pid)
        assert process.wait(timeout=30) == code


def test_run_cancel_ends_a_run_that_ignores_sigint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    with waiting(ignore) as process:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: process.pid)
            RunRecord(lake, "nightly-1", "nightly", "", {}).begin()
        ended = run_command(["run", "cancel", "nightly-1", "--lake", lake.uri])
        said = capsys.readouterr()
        assert ended == 0, said.err
        assert f"interrupted (process {process.pid})" in said.out
        assert process.wait(timeout=30) == 44
