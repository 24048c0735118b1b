"""Progress of a fit, one line per epoch or level. The caller decides where the lines go."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

ProgressCallback = Callable[[str], None]


def _discard(line: str) -> None:
    """Discard a line."""


_listener: ContextVar[ProgressCallback] = ContextVar("progress_listener", default=_discard)


def emit(line: str) -> None:
    """Send a line to the listener of the current context."""
    _listener.get()(line)


@contextmanager
def progress_listener(callback: ProgressCallback) -> Iterator[None]:
    """Send the lines of all fits in the body to `callback`."""
    token = _listener.set(callback)
    try:
        yield
    finally:
        _listener.reset(token)


class Epochs:
    """A progress report of a training: a line per epoch with its loss and an estimate of the time left."""

    def __init__(self, label: str, of: int) -> None:
        self.label, self.of, self._done, self._began = label, of, 0, time.perf_counter()

    def done(self, loss: float) -> None:
        """Report a finished epoch."""
        self._done += 1
        seconds = time.perf_counter() - self._began
        rest = seconds / self._done * (self.of - self._done)
        left = f", about {rest:,.0f} s left" if rest else ""
        emit(f"{self.label} epoch {self._done} of {self.of}: loss {loss:.4f}, {seconds:,.0f} s{left}")
