"""A temporary folder is there as long as its process, and goes also if the process is killed."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from infra.scratch import PREFIX, ScratchFolder

HOLD = """
import sys, time
from infra.scratch import ScratchFolder
folder = ScratchFolder("held")
(folder.path / "rows").write_text("rows")
print(folder.name, flush=True)
time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_process_left_goes_with_the_next_folder_and_what_a_living_one_holds_stays(
    temporary: Path,
) -> None:
    held = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    assert held.stdout is not None
    other = Path(held.stdout.readline().strip())
    try:
        with ScratchFolder("mine") as name:
            assert other.exists()
            (Path(name) / "rows").write_text("rows")
        assert not Path(name).exists()
    finally:
        os.kill(held.pid, signal.SIGKILL)
        held.wait()
    assert (other / "rows").exists()
    with ScratchFolder("mine"):
        assert not other.exists()
    assert not list(temporary.glob(f"{PREFIX}*"))


def test_folders_of_many_processes_do_not_take_each_other_away(temporary: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert all(pool.map(_kept, range(8)))
    assert not list(temporary.glob(f"{PREFIX}*"))


def _kept(number: int) -> bool:
    for round_ in range(60):
        with ScratchFolder(f"n{number}") as name:
            (Path(name) / str(round_)).write_text("")
            if not (Path(name) / str(round_)).exists():
                return False
    return True


def test_a_folder_that_is_no_scratch_folder_and_a_link_stay(temporary: Path) -> None:
    (temporary / "elsewhere").mkdir()
    (temporary / f"{PREFIX}link").symlink_to(temporary / "elsewhere")
    (temporary / "sidmill-blobs").mkdir()
    with ScratchFolder("mine"):
        pass
    assert {path.name for path in temporary.iterdir()} == {"elsewhere", f"{PREFIX}link", "sidmill-blobs"}


def test_where_there_are_no_locks_a_folder_is_made_and_others_stay(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary / f"{PREFIX}other-x").mkdir()

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with ScratchFolder("mine") as name:
        assert Path(name).is_dir()
    assert [path.name for path in temporary.iterdir()] == [f"{PREFIX}other-x"]
