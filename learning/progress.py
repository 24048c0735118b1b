"""Progress of a fit: lines, and the figures of each epoch of a training. The caller decides where they go."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

LineCallback = Callable[[str], None]
EpochCallback = Callable[[str, Mapping[str, float], int], None]
"""Called with the label of a training, the row of an epoch (see `learning.loop.Loop.epochs`), and their number."""


def _discard(*_: object) -> None:
    """Discard what is reported."""


_listener: ContextVar[tuple[LineCallback, EpochCallback]] = ContextVar("listener", default=(_discard, _discard))


def emit(line: str) -> None:
    """Send a line to the listener of the current context."""
    _listener.get()[0](line)


def emit_epoch(label: str, row: Mapping[str, float], of: int) -> None:
    """Send the row of an epoch to the listener of the current context."""
    _listener.get()[1](label, row, of)


@contextmanager
def progress_listener(lines: LineCallback, epochs: EpochCallback = _discard) -> Iterator[None]:
    """Send the lines, and the rows of epochs, of all fits in the body to the callbacks."""
    token = _listener.set((lines, epochs))
    try:
        yield
    finally:
        _listener.reset(token)


class Epochs:
    """A progress report of a training: a line per epoch with its loss and an estimate of the time left."""

    def __init__(self, label: str, of: int, done: int = 0) -> None:
        """Begin after `done` of so many epochs."""
        self.label, self.of, self._before, self._done, self._began = label, of, done, done, time.perf_counter()

    def done(self, loss: float) -> None:
        """Report a finished epoch."""
        self._done += 1
        seconds = time.perf_counter() - self._began
        rest = seconds / (self._done - self._before) * (self.of - self._done)
        left = f", about {rest:,.0f} s left" if rest else ""
        emit(f"{self.label} epoch {self._done} of {self.of}: loss {loss:.4f}, {seconds:,.0f} s{left}")
