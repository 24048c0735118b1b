"""Content hashes are those of hashlib, whether made here or by a process beside this one, whatever happens to it."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.hashing import content_hash
from storage.hashing.content_hash import content_hashes, row_hashes

LONG = pl.Series([f"content {number}" for number in range(2_000)])


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator["content_hash._Beside"]:
    """Let a process beside this one hash contents of any number, on any number of cores."""
    fresh = content_hash._Beside()
    monkeypatch.setattr(content_hash, "_beside", fresh)
    monkeypatch.setattr(content_hash, "MIN_BESIDE", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    yield fresh
    fresh.end()


def one_by_one(contents: pl.Series) -> list[str | None]:
    raw = contents.cast(pl.Binary).to_list()
    return [None if each is None else hashlib.blake2b(each, digest_size=16).hexdigest() for each in raw]


def started(beside: "content_hash._Beside") -> "subprocess.Popen[bytes]":
    assert beside._started is not None
    return beside._started


CONTENTS = st.lists(st.none() | st.binary(max_size=300)).map(lambda each: pl.Series(each, dtype=pl.Binary))


@given(CONTENTS, st.integers(0, 3))
def test_hashes_are_those_of_hashlib(contents: pl.Series, start: int) -> None:
    some = contents[start:]
    assert content_hashes(some).to_list() == one_by_one(some)


def test_texts_are_hashed_over_their_utf8_here_and_beside(beside: "content_hash._Beside") -> None:
    texts = pl.Series(["", None, "é", "a\0b", "x" * 100_000, None])
    assert content_hashes(texts).to_list() == one_by_one(texts)
    assert beside._started is not None


def test_rows_of_floats(beside: "content_hash._Beside") -> None:
    rows = np.random.default_rng(0).random((50, 3), dtype=np.float32)
    wanted = [hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in rows]
    assert row_hashes(rows.reshape(-1).view(np.uint8).data, 12).to_list() == wanted
    assert row_hashes(memoryview(b""), 12).to_list() == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_was_killed_is_replaced(beside: "content_hash._Beside", how: signal.Signals) -> None:
    content_hashes(LONG)
    first = started(beside)
    first.send_signal(how)
    first.wait()
    assert content_hashes(LONG).to_list() == one_by_one(LONG)
    assert content_hashes(LONG).to_list() == one_by_one(LONG)
    assert started(beside).pid != first.pid


def test_a_process_that_is_killed_in_the_middle(beside: "content_hash._Beside") -> None:
    content_hashes(LONG)
    large = pl.Series([os.urandom(1 << 20)] * 200)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(content_hashes, large)
        time.sleep(0.05)
        started(beside).kill()
        assert found.result().to_list() == one_by_one(large)


def test_signals_for_a_whole_group_of_processes_do_not_end_it(beside: "content_hash._Beside") -> None:
    content_hashes(LONG)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        started(beside).send_signal(number)
    assert content_hashes(LONG).to_list() == one_by_one(LONG)
    assert started(beside).poll() is None


def test_threads_do_not_mix_their_contents(beside: "content_hash._Beside") -> None:
    several = [pl.Series([f"{number} of thread {name}" for number in range(500)]) for name in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert [each.to_list() for each in pool.map(content_hashes, several)] == list(map(one_by_one, several))


def test_a_fork_has_a_process_of_its_own(beside: "content_hash._Beside") -> None:
    content_hashes(LONG)
    pid = os.fork()
    if not pid:
        agrees = content_hashes(LONG).to_list() == one_by_one(LONG)
        beside.end()
        os._exit(0 if agrees else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert content_hashes(LONG).to_list() == one_by_one(LONG)


SCRIPT = """
import os, time
import polars as pl
from storage.hashing import content_hash
content_hash.MIN_BESIDE = 1
os.sched_getaffinity = lambda pid: {0, 1}
content_hash.content_hashes(pl.Series(["a", "b"]))
print(content_hash._beside._started.pid, flush=True)
time.sleep(float(os.environ["STAY"]))
"""


@pytest.mark.parametrize("stay", ["0", "60"])
def test_it_ends_with_the_process_that_started_it(stay: str) -> None:
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "STAY": stay}) as parent:
        assert parent.stdout is not None
        hashing = psutil.Process(int(parent.stdout.readline()))
        if stay != "0":
            parent.kill()
    gone, _ = psutil.wait_procs([hashing], timeout=20)
    assert gone
