"""An S3 server on loopback with faults: `python tests/flaky_store.py SEED BUSY STALLED LATE_S PORT`.

It is moto's server behind a small application that answers 503 to a share of the requests, lets another share wait for
some seconds, and leaves objects out of listings for some seconds after they were written.
"""

import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

STALL_S = 5.0
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
ENTRY = re.compile(rb"<Contents>.*?<Key>(.*?)</Key>.*?</Contents>", re.DOTALL)

Start = Callable[..., Any]


class Flaky:
    """A WSGI application around another one. A request for /faults begins the faults, one for /calm ends them."""

    def __init__(self, inner: Callable[..., Iterable[bytes]], seed: int, busy: float, stalled: float, late_s: float):
        self._inner, self._chance, self._lock = inner, random.Random(seed), threading.Lock()
        self._busy, self._stalled, self._late_s = busy, stalled, late_s
        self._written: dict[str, float] = {}
        self._on = False

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path in ("/faults", "/calm"):
            self._on = path == "/faults"
            start("200 OK", [])
            return [b""]
        with self._lock:
            draw = self._chance.random() if self._on else 1.0
        if draw < self._busy:
            start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(SLOW_DOWN)))])
            return [SLOW_DOWN]
        if draw < self._busy + self._stalled:
            time.sleep(STALL_S)
        if environ["REQUEST_METHOD"] in ("PUT", "POST"):
            self._written[path.split("/", 2)[-1]] = time.monotonic()
        if self._on and self._late_s and "list-type" in environ["QUERY_STRING"]:
            return self._late(environ, start)
        return self._inner(environ, start)

    def _late(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        """Answer a listing without what was written within the last seconds."""
        begun: list[Any] = []
        text = b"".join(self._inner(environ, lambda *arguments: begun.extend(arguments)))
        since = time.monotonic() - self._late_s
        kept = ENTRY.sub(
            lambda entry: b"" if self._written.get(unquote(entry[1].decode()), since) > since else entry[0], text
        )
        headers = [(name, str(len(kept)) if name == "Content-Length" else value) for name, value in begun[1]]
        start(begun[0], headers)
        return [kept]


if __name__ == "__main__":
    seed, *shares = map(float, sys.argv[1:-1])
    application = Flaky(DomainDispatcherApplication(create_backend_app), int(seed), *shares)
    run_simple("127.0.0.1", int(sys.argv[-1]), application, threaded=True)
