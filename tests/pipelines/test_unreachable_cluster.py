"""A cluster at RAY_ADDRESS that does not answer is told in seconds, and a signal ends the wait for it."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pipelines.compute.ray_address import ClusterUnreachable, require_address, require_reachable

SETTINGS, ACKNOWLEDGED = (bytes([0, 0, 0, 4, flags, 0, 0, 0, 0]) for flags in (0, 1))
"""Frames with which a server of HTTP/2 begins (RFC 9113, 6.5)."""
TOLD_S = 25
"""Seconds within which a user has to be told; twice of what it takes on an idle machine."""
JOINS = """
import sys
from flows.runtime import stopped
stopped.raise_at_signals()
stopped.state.run_began = True
from infra.settings import configure
configure()
from pipelines.compute import cluster
from pipelines.spec import ComputeSpec
cluster.require_reachable = lambda address: None  # the cluster hangs only once it has answered
try:
    cluster.connect(ComputeSpec())
except KeyboardInterrupt as stop:
    cluster.shutdown()
    print(type(stop).__name__, flush=True)
"""


class Listener:
    """A server on the loopback address that sends the same to whoever connects, and then only reads."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.connected = threading.Semaphore(0)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self.socket.accept()
                threading.Thread(target=self._read, args=(connection,), daemon=True).start()
                self.connected.release()

    def _read(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:  # the client has gone
            connection.sendall(self.answer)
            while connection.recv(4096):
                pass


@contextmanager
def listening(answer: bytes) -> Iterator[Listener]:
    """A server that says `answer`; nothing listens at its address afterwards."""
    server = Listener(answer)
    try:
        yield server
    finally:
        server.socket.shutdown(socket.SHUT_RDWR)
        server.socket.close()


def told_of(address: str) -> str:
    """Return the error for an address, which has to come in time."""
    began = time.monotonic()
    with pytest.raises(ClusterUnreachable) as caught:
        require_reachable(address)
    assert time.monotonic() - began < TOLD_S
    return str(caught.value)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", r"\(timed out\)"),
        (SETTINGS + ACKNOWLEDGED, r"\(timed out: it accepts connections, but no call in 8 s\)"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"\(another service than Ray listens there\)"),
    ],
    ids=["silent", "hung", "another"],
)
def test_a_server_that_does_not_answer_as_ray_does_is_told_in_words_and_in_time(answer: bytes, why: str) -> None:
    with listening(answer) as server:
        told = told_of(server.address)
    assert re.fullmatch(
        rf"the Ray cluster at RAY_ADDRESS={server.address} does not answer {why}: start it or correct the address, or "
        "unset RAY_ADDRESS to work on this machine.",
        told,
    )


def test_an_address_where_nothing_listens_and_one_that_is_none_are_told() -> None:
    with listening(b"") as server:
        pass
    assert "does not answer (Connection refused)" in told_of(server.address)
    assert "write it as host:port" in told_of("head")


def test_an_address_for_ray_client_is_told_with_what_to_use_instead() -> None:
    told = told_of("ray://head.example:10001")
    assert "set RAY_ADDRESS=head.example:6379" in told
    assert "sidmill job --address http://head.example:8265 -- COMMAND" in told
    with pytest.raises(ClusterUnreachable, match="Ray Client"):
        require_address("ray://head.example:10001")


def heed_sigint() -> None:
    """Undo that tests which run in the background of a shell ignore SIGINT, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_that_waits_for_the_answer_of_a_cluster(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"item_id": "a", "title": "a mug"}\n')
    with listening(SETTINGS + ACKNOWLEDGED) as server:
        command = ["run", "bootstrap", "--items", str(tmp_path / "items.jsonl"), "--lake", str(tmp_path / "lake")]
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.main", *command],
            env={**os.environ, "RAY_ADDRESS": server.address},
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_sigint,
        )
        for _ in range(2):  # the second connection is that of the call
            assert server.connected.acquire(timeout=60)
        began = time.monotonic()
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert process.returncode == {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 130}[number]
    assert "stopped: nothing was begun or changed" in told
    assert not (tmp_path / "lake").exists()


def test_sigterm_ends_the_wait_for_a_cluster_that_hangs_while_a_run_joins_it() -> None:
    with listening(SETTINGS + ACKNOWLEDGED) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", JOINS],
            env={**os.environ, "RAY_ADDRESS": server.address},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.connected.acquire(timeout=60)
        time.sleep(1)  # Ray waits for the answer to its first call
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert said == "Terminated\n"
    assert time.monotonic() - began < 10
