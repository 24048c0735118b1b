"""The lease of nights: one holder at a time, whoever is killed or stalls, and a token that tells who lost it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage.commit import Provenance
from storage.errors import LakeUnusable, LeaseLost, LeaseTaken
from storage.files.store import WRITING
from storage.lake import Lake
from storage.releases.pointers import move_pointer, read_pointer
from storage.runs import lease as leases
from storage.runs.lease import Lease

HOUR = 3600.0
HOLDER = """
import os, signal, sys, time
from pathlib import Path
from storage.commit import Provenance
from storage.files.store import WRITING
from storage.lake import Lake
from storage.runs import lease as leases
leases.LOOK_S = leases.BEAT_S = 0.05
lake, who, rounds, dies, log = Lake(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], Path(sys.argv[5])
def note(what, token):
    with log.open("a") as file:
        file.write(f"{what} {who} {token}\\n")
for number in range(rounds):
    lease = leases.Lease(lake, "nightly", Provenance(f"{who}-{number}", ""))
    lease.take(600, lambda line: None)
    note("begin", lease.token)
    time.sleep(0.05)
    if dies == "killed":
        note("end", lease.token)
        os.kill(os.getpid(), signal.SIGKILL)
    if dies == "waits":
        print(lease.token, flush=True)
        sys.stdin.readline()
    lease.require(lake.read("pointers"))
    note("end", lease.token)
    lease.close()
"""


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LOOK_S", 0.05)


def holder(lake: Path, who: str, rounds: int, dies: str = "never") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLDER, str(lake), who, str(rounds), dies, str(lake / "log.txt")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def lease_of(lake: Lake, run: str) -> Lease:
    return Lease(lake, "nightly", Provenance(run, ""))


def test_many_processes_hold_it_one_after_the_other_and_a_killed_one_stops_nobody(tmp_path: Path) -> None:
    processes = [holder(tmp_path, f"run-{number}", 4) for number in range(3)]
    processes.append(holder(tmp_path, "killed", 4, "killed"))
    codes = [process.wait(timeout=240) for process in processes]
    assert codes == [0, 0, 0, -signal.SIGKILL]
    told = [line.split() for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert len(told) == 2 * (3 * 4 + 1)
    for begin, end in zip(told[::2], told[1::2], strict=True):
        assert (begin[0], end[0]) == ("begin", "end")
        assert begin[1:] == end[1:]
    assert [int(token) for what, _, token in told if what == "begin"] == list(range(1, 14))
    last = lease_of(Lake(str(tmp_path)), "after")
    last.take(0, print)
    last.close()
    left = [path for path in (tmp_path / leases.FOLDER).iterdir() if not path.name.startswith(WRITING)]
    assert left == [], "but for a draft of one that was killed while it wrote"


def test_a_holder_that_stands_still_loses_it_and_learns_so_before_anything_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is the same and the process exists: only the file tells."""
    process = holder(tmp_path, "stalled", 1, "waits")
    assert process.stdout is not None
    assert process.stdin is not None
    assert int(process.stdout.readline()) == 1
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(leases, "LOST_S", 0.5)
    told = list[str]()
    taker = lease_of(Lake(str(tmp_path)), "taker")
    taker.take(HOUR, told.append)
    assert taker.waited
    assert taker.token == 2
    assert "stalled-0" in told[0]
    assert "no sign of life" in told[1]
    os.kill(process.pid, signal.SIGCONT)
    process.stdin.close()
    assert process.wait(timeout=60) == 1  # `require` raised
    assert "end" not in (tmp_path / "log.txt").read_text()
    taker.require(Lake(str(tmp_path)).read("pointers"))
    taker.close()
    process.stdout.close()


def test_a_holder_that_lives_is_waited_for_and_named_when_the_wait_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file changes every 50 ms, so it is not taken for dead though the wait is longer than that would take."""
    monkeypatch.setattr(leases, "LOST_S", 1.0)
    process = holder(tmp_path, "long", 1, "waits")
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    waiting = lease_of(Lake(str(tmp_path)), "second")
    with pytest.raises(LeaseTaken, match=r"still running after 0 minutes.*sidmill run show long-0"):
        waiting.take(3, print)
    assert waiting.waited
    assert waiting.token == 0
    names = {path.name for path in (tmp_path / leases.FOLDER).iterdir()}
    assert {name for name in names if not name.startswith(WRITING)} == {"long-0.json"}
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()


def test_a_holder_on_another_machine_is_judged_by_its_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path))
    elsewhere = {"run": "far", "host": "another-machine", "pid": os.getpid()}
    move_pointer(lake, read_pointer(lake, "lease:nightly"), elsewhere, "nightly", Provenance("far", ""))
    copied = lease_of(lake, "after a restore")  # the file is not part of a backup: nobody waits for what is not there
    copied.take(0, print)
    assert not copied.waited
    copied.close()
    move_pointer(lake, read_pointer(lake, "lease:nightly"), elsewhere, "nightly", Provenance("far", ""))
    lake.files.write("leases/far.json", json.dumps({"count": 0}).encode())
    with pytest.raises(LeaseTaken):
        lease_of(lake, "early").take(0.2, print)
    monkeypatch.setattr(leases, "LOST_S", 0.3)
    late = lease_of(lake, "late")
    late.take(HOUR, print)
    assert not (tmp_path / "leases" / "far.json").exists()
    late.close()


def test_a_lease_that_was_taken_over_is_refused_by_its_token(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    mine = lease_of(lake, "mine")
    mine.take(0, print)
    mine.require(lake.read("pointers"))
    taken = {"run": "other", "host": "another-machine", "pid": 1}
    move_pointer(lake, read_pointer(lake, "lease:nightly"), taken, "nightly", Provenance("other", ""))
    with pytest.raises(LeaseLost, match="other took the place"):
        mine.require(lake.read("pointers"))
    mine.close()


def test_a_lease_whose_file_cannot_be_written_is_refused_for_that_reason_and_can_be_closed(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / leases.FOLDER).write_text("in the way of a folder")
    lease = lease_of(lake, "nightly-1")
    with pytest.raises(LakeUnusable, match="cannot write to"):
        lease.take(HOUR, print)
    lease.close()
    assert read_pointer(lake, lease.name).value is None
