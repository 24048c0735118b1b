"""Rows of the GPU table, and clocks that wait for the device."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Row:
    """A figure; `ratio` is its share of the limit that `against` names, measured in the same run."""

    section: str
    name: str
    value: float
    unit: str
    ratio: float | None = None
    against: str = ""


class Meter:
    """Writer of a section's rows to a file of JSON lines as they are measured, and its clock.

    `quick` asks a section for sizes that a CPU finishes in seconds: the same code, but no figures worth reading.
    """

    def __init__(self, section: str, device: torch.device, quick: bool, path: Path) -> None:
        self.section, self.device, self.quick, self._path = section, device, quick, path

    def row(self, name: str, value: float, unit: str, ratio: float | None = None, against: str = "") -> None:
        """Write a row."""
        row = Row(self.section, name, value, unit, ratio, against)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")

    def size(self, full: int, quick: int) -> int:
        """Return the size for this run."""
        return quick if self.quick else full

    def wait(self) -> None:
        """Wait until the device has finished all work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, function: Callable[[], object], rounds: int = 7, calls: int = 1) -> float:
        """Return the median time of a call, over rounds of `calls` calls, after one round to warm up."""
        took = []
        for _ in range(1 + self.size(rounds, 1)):
            self.wait()
            start = time.perf_counter()
            for _ in range(calls):
                function()
            self.wait()
            took.append((time.perf_counter() - start) / calls)
        return statistics.median(took[1:])

    def product(self, dtype: torch.dtype) -> float:
        """Return the floating-point operations per second of a square product (8,192 rows) of random numbers."""
        rows = self.size(8192, 256)
        left, right = torch.randn(2, rows, rows, device=self.device).to(dtype)
        return 2 * rows**3 / self.seconds(lambda: left @ right, calls=self.size(10, 1))
