"""Verbs that are killed and run again, as `python -m bench faults` does it at every crash point."""

import subprocess
import sys
from pathlib import Path

import pytest

VERBS = ("night", "backfill", "gc", "stream", "erase")


@pytest.mark.slow
def test_verbs_that_were_killed_end_as_if_they_had_not_been() -> None:
    options = ["--kills", "5", "--points", "5", "--seed", "7", "--verbs", ",".join(VERBS)]
    command = [sys.executable, "-m", "bench", "faults", *options]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [
        line.split("|") for line in done.stdout.splitlines() if line.startswith(tuple(f"| {verb} " for verb in VERBS))
    ]
    assert [[cell.strip() for cell in row[4:7]] for row in rows] == [["1", "6", "0"]] * len(VERBS)
