"""Speed of a stage, and the time that is left."""

import time
from collections.abc import Callable

FEWEST = 3
"""Reports from which a speed is known."""
MOST = 1_000
"""Most reports that are kept. Beyond, every second one is left out."""


class Pace:
    """The progress of a stage of `total` rows; None for a stage whose rows are not counted."""

    def __init__(self, total: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done = total, 0
        self._clock = clock
        self._reports: list[tuple[float, int]] = []

    def advance(self, rows: int) -> None:
        """Count rows that are done."""
        self.done += rows
        self._reports.append((self._clock(), self.done))
        if len(self._reports) > MOST:
            self._reports = self._reports[::2]

    @property
    def speed(self) -> float | None:
        """Rows a second by the newer two thirds of the reports, so that the start of workers does not count."""
        if len(self._reports) < FEWEST:
            return None
        (first, before), (last, after) = self._reports[len(self._reports) // 3], self._reports[-1]
        return (after - before) / (last - first) if last > first and after > before else None

    @property
    def left_s(self) -> float | None:
        """Estimated seconds until all rows are done; None without an estimate."""
        speed = self.speed
        if self.total is None or speed is None:
            return None
        since = self._clock() - self._reports[-1][0]
        return max(0.0, (self.total - self.done) / speed - since)
