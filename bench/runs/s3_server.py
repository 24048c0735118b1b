"""An S3 server (moto) on loopback, in a process of its own, for benchmarks and tests."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

BUCKET = "lake"
# Tries to reach a new server, and seconds between them.
TRIES, PAUSE_S = 120, 0.5


@contextmanager
def s3_server(*arguments: str) -> Iterator[dict[str, str]]:
    """Start a server, which Python runs with `arguments` and a port; make BUCKET and yield the settings of clients.

    Without arguments, the server is moto's own. The settings are environment variables; AWS_ENDPOINT_URL is the
    server's address. Raise RuntimeError if the server ends or does not answer.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    arguments = arguments or ("-m", "moto.server", "-H", "127.0.0.1", "-p")
    server = subprocess.Popen(
        [sys.executable, *arguments, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _make_bucket(server, url)
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
    finally:
        server.kill()
        server.wait()


def _make_bucket(server: "subprocess.Popen[bytes]", url: str) -> None:
    for _ in range(TRIES):
        try:
            httpx.put(f"{url}/{BUCKET}", timeout=2)
            return
        except httpx.TransportError:  # not there yet, or slow to answer on a busy machine
            if server.poll() is not None:
                break
            time.sleep(PAUSE_S)
    raise RuntimeError("the S3 server did not start: install sidmill with the extra `dev`, which has moto")
