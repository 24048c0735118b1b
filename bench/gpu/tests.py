"""The tests that need a GPU and are skipped elsewhere: `pytest -m gpu` on the files that hold them."""

import re
import subprocess
import sys
from pathlib import Path

from bench.gpu.meter import Meter


def run(meter: Meter) -> None:
    """Run them and count outcomes. Raises RuntimeError if one fails."""
    files = [str(path) for path in sorted(Path("tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rfEs", "--timeout=120", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout)}
    for word, count in counts.items():
        meter.row(f"tests marked gpu: {word}", count, "tests")
    if done.returncode not in (0, 5) or counts.keys() - {"passed", "skipped"}:
        raise RuntimeError(f"tests failed:\n{done.stdout[-20000:]}")
