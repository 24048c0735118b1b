"""A process of a run is known by its start too: another one that got its number is not the run."""

import os
import signal
import subprocess
import sys
import time

import pytest

from storage.runs.process import may_live, this_process


def test_this_process_lives_and_one_with_its_number_that_began_at_another_time_does_not() -> None:
    mine = this_process()
    assert mine["pid"] == os.getpid()
    assert may_live(mine)
    assert not may_live({**mine, "born": mine["born"] - 1})
    assert may_live({**mine, "born": None}), "recorded by an older program, or where the system does not tell"
    assert may_live({"host": mine["host"], "pid": mine["pid"]})


def test_of_another_machine_nothing_is_known() -> None:
    assert may_live({**this_process(), "host": "another-machine", "born": 1})


def test_a_process_that_ended_is_gone_also_before_its_parent_asks() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    recorded = {"host": this_process()["host"], "pid": child.pid}
    assert may_live(recorded)
    child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while may_live(recorded) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not may_live(recorded)
    assert child.returncode is None, "it is a zombie"
    child.wait()
    assert not may_live(recorded)
    assert child.stdin is not None
    child.stdin.close()


@pytest.mark.parametrize("record", [{}, {"host": this_process()["host"]}])
def test_a_record_without_a_number(record: dict[str, str]) -> None:
    assert may_live(record) == (not record)
