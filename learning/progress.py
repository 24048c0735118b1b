"""How far a fit is. It tells a line an epoch or a level; who called it decides where the lines go."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Hear = Callable[[str], None]


def _nobody(line: str) -> None:
    """Hears nothing."""


_hears: ContextVar[Hear] = ContextVar("hears", default=_nobody)


def tell(line: str) -> None:
    """Give a line to whoever hears the fits of this context."""
    _hears.get()(line)


@contextmanager
def heard_by(hear: Hear) -> Iterator[None]:
    """Let `hear` have the lines of all fits in the body."""
    token = _hears.set(hear)
    try:
        yield
    finally:
        _hears.reset(token)


class Epochs:
    """Tells the epochs of a training, each with its loss and about how long the rest will take."""

    def __init__(self, label: str, of: int) -> None:
        self.label, self.of, self._done, self._began = label, of, 0, time.perf_counter()

    def done(self, loss: float) -> None:
        """One more epoch is over."""
        self._done += 1
        seconds = time.perf_counter() - self._began
        rest = seconds / self._done * (self.of - self._done)
        left = f", about {rest:,.0f} s left" if rest else ""
        tell(f"{self.label} epoch {self._done} of {self.of}: loss {loss:.4f}, {seconds:,.0f} s{left}")
