"""A soak of two simulated hours, as `python -m bench soak` does it for days."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_two_hours_with_faults_violate_nothing() -> None:
    options = ["--hours", "2", "--days", "1", "--minutes", "8", "--seed", "3", "--share", "0.9"]
    command = [sys.executable, "-m", "bench", "soak", *options]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    table = dict(line.strip("| ").split(" | ", 1) for line in done.stdout.splitlines() if line.startswith("| "))
    assert table["violations"] == "0"
    assert int(table["faults"].partition(":")[0]) >= 5
    for verb in ("night", "backfill", "erase", "gc", "rollback"):
        assert f" {verb}" in table["steps"]
