"""Heaps of the process of a run: arrays of all items are given back when they are freed, smaller ones are reused."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from infra.heaps import KEPT, LARGE, MOST_HEAPS

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these are bounds of glibc")
ROUNDS = 50
SCRIPT = """
import resource, sys
from threading import Thread

import numpy as np

from infra.heaps import give_large_arrays_pages_of_their_own

give_large_arrays_pages_of_their_own()
size, rounds = int(sys.argv[1]), int(sys.argv[2])

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

def work():
    kept = np.ones(size, np.uint8)  # a heap in which nothing is held goes as a whole
    np.ones(size, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        np.ones(size, np.uint8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, end=" ")

work()
thread = Thread(target=work)
thread.start()
thread.join()
before = resident()
held = np.ones(size, np.uint8)
there = resident() - before
del held
print(there - (resident() - before))
"""


def measured(size: int) -> tuple[list[int], int]:
    """Return the page faults of ROUNDS arrays in the first thread and in another, and the pages that one gave back."""
    command = [sys.executable, "-c", SCRIPT, str(size), str(ROUNDS)]
    *faults, given_back = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return list(map(int, faults)), int(given_back)


@glibc
def test_arrays_are_reused_without_asking_the_system_for_their_pages_again() -> None:
    """Each would fault once for each of its pages if the heap gave them back."""
    size = LARGE // 4
    faults, given_back = measured(size)
    assert max(faults) < size // 4096, "fewer than one of the arrays has pages"
    assert given_back < size // 4096 // 2


@glibc
def test_arrays_of_all_items_are_given_back() -> None:
    size = max(2 * LARGE, KEPT)
    faults, given_back = measured(size)
    assert min(faults) > ROUNDS * (size // (2 << 20)) // 2, "pages are asked for again, be they of 4 KB or of 2 MB"
    assert given_back > size // 4096 // 2


HEAPS = """
import ctypes, sys
from threading import Barrier, Thread

from infra.settings import configure

configure()

import numpy as np

barrier = Barrier(40)

def work():
    barrier.wait()
    held = [np.ones(1 << 12, np.uint8) for _ in range(100)]
    barrier.wait()

threads = [Thread(target=work) for _ in range(40)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
library = ctypes.CDLL(None)
library.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(library.fopen(sys.argv[1].encode(), b"w"))
library.malloc_info(0, file)
library.fclose(file)
"""


@glibc
def test_many_threads_share_few_heaps(tmp_path: Path) -> None:
    told = tmp_path / "heaps.xml"
    subprocess.run([sys.executable, "-c", HEAPS, str(told)], check=True)
    assert 1 <= told.read_text().count("<heap nr=") <= min(len(os.sched_getaffinity(0)), MOST_HEAPS)


@glibc
def test_settings_of_the_user_take_precedence(tmp_path: Path) -> None:
    told = tmp_path / "heaps.xml"
    settings = {**os.environ, "MALLOC_ARENA_MAX": "12"}
    subprocess.run([sys.executable, "-c", HEAPS, str(told)], env=settings, check=True)
    assert told.read_text().count("<heap nr=") == 12
