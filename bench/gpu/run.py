"""Runs the sections on a GPU, each in a process with a time limit, and prints the table.

`python -m bench gpu [--json FILE] [--only SECTION ...]` measures on the first CUDA device. `--quick` runs the same code
with small sizes, on a CPU too: it shows that a section works, and its figures mean nothing.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from bench.gpu import SECTIONS
from bench.gpu.meter import Meter

TIME_LIMIT_S = 480
"""Seconds for all sections."""


def run(options: argparse.Namespace) -> None:
    """Measure the sections, print the table and write the JSON. Raises ValueError without a CUDA device."""
    if not torch.cuda.is_available() and not options.quick:
        raise ValueError("this machine has no CUDA device; `--quick` runs the same code, small, on the CPU")
    if options.rows is not None:  # this is the process of one section
        _measure(options.only[0], options.quick, options.rows)
        return
    began, failed = time.monotonic(), {}
    with tempfile.TemporaryDirectory(prefix="sidmill-gpu-") as folder:
        path = Path(folder, "rows.jsonl")
        path.touch()
        sections = list(options.only or SECTIONS)
        for place, section in enumerate(sections):
            start, before = time.monotonic(), len(_rows(path))
            limit = time_limit(sections[place:], TIME_LIMIT_S - (start - began))
            reason = _child(section, options.quick, path, limit)
            if reason:
                failed[section] = reason
            for row in _rows(path)[before:]:
                print(_line(row), flush=True)
            print(f"# {section}: {reason or 'done'} ({time.monotonic() - start:.0f} s)", flush=True)
            if options.json:
                table = {"machine": machine(), "rows": _rows(path), "failed": failed}
                options.json.write_text(json.dumps(table, indent=1) + "\n")
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(sections)} sections failed: {', '.join(failed)}")


def time_limit(sections: list[str], left: float) -> float:
    """Return the seconds for the first of some sections, so that each has its share of what is `left`, or its limit."""
    own = SECTIONS[sections[0]]
    return min(own, left * own / sum(SECTIONS[each] for each in sections))


def machine() -> dict[str, Any]:
    """Return what the figures depend on: card, driver, versions, cores."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    ask = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
    driver = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip() if card else None
    return {
        "card": card,
        "driver and memory": driver,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
    }


def _measure(section: str, quick: bool, path: Path) -> None:
    """Run one section in this process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    import_module(f"bench.gpu.{section}").run(Meter(section, device, quick, path))


def _child(section: str, quick: bool, path: Path, limit: float) -> str:
    """Run a section in a process of its own. Returns "", or the reason why it did not finish."""
    command = [sys.executable, "-m", "bench", "gpu", "--debug", "--only", section, "--rows", str(path)]
    try:
        done = subprocess.run(
            [*command, *(["--quick"] if quick else [])], capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s"
    if done.returncode == 0:
        return ""
    print(done.stderr[-3000:], file=sys.stderr, flush=True)
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows that were written so far."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _line(row: dict[str, Any]) -> str:
    """Write a row as a line of the table."""
    share = "" if row["ratio"] is None else f"{row['ratio']:>7.2f} x {row['against']}"
    return f"{row['section']:<10} {row['name']:<54} {row['value']:>14,.3f} {row['unit']:<10} {share}".rstrip()
