"""Servers of streams on loopback, for tests: librdkafka's mock cluster, and Debian's Redis."""

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

import redis
from confluent_kafka import Producer


class Broker(Protocol):
    """A server of streams on loopback."""

    address: str

    def topic(self) -> str:
        """Return the address of a new stream."""

    def send(self, topic: str, value: bytes | None, partition: int = 0) -> None: ...


class KafkaBroker:
    """A mock cluster."""

    def __init__(self) -> None:
        self._producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0})
        (broker,) = self._producer.list_topics(timeout=10).brokers.values()
        self.address = f"kafka://{broker.host}:{broker.port}"
        self._topics = 0

    def topic(self) -> str:
        """Return the address of a new topic."""
        self._topics += 1
        return f"{self.address}/log-{self._topics}"

    def send(self, topic: str, value: bytes | None, partition: int = 0) -> None:
        name = topic.rpartition("/")[2]
        self._producer.produce(name, value, partition=partition, on_delivery=_delivered)
        self._producer.flush(10)


class RedisServer:
    """A Redis server that keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        self.address, self._topics = f"redis://127.0.0.1:{port}", 0
        self.client = redis.Redis(port=port)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.05)

    def topic(self) -> str:
        self._topics += 1
        return f"{self.address}/log-{self._topics}"

    def send(self, topic: str, value: bytes | None, partition: int = 0) -> None:
        self.client.xadd(topic.rpartition("/")[2], {b"json": value or b""})


def _delivered(error: Any, message: Any) -> None:
    assert error is None, error


def redis_is_installed() -> bool:
    return shutil.which("redis-server") is not None
