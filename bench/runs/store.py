"""Requests and bytes of a bootstrap and of nights on a lake in an object store: `python -m bench store --items N`.

The store is moto's S3 on this machine, so seconds say nothing of a real one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.runs.made_shop import DAYS, Delivery, Shop
from bench.runs.pipeline import RECIPE
from bench.runs.s3_server import BUCKET, s3_server

NIGHTS, NEW_ITEMS, NEW_EVENTS = 3, 100, 2_000


def run(options: argparse.Namespace) -> None:
    """Print the requests of each run, by kind."""
    with tempfile.TemporaryDirectory(prefix="sidmill-store-") as name, store_server(Path(name, "requests")) as requests:
        folder, items = Path(name), options.items
        first = Shop(items).write(folder / "first", 5 * items)
        recipe = folder / "recipe.toml"
        recipe.write_text(RECIPE.format(vectors=first.vectors))
        print(
            f"{'':<28}{'requests':>9}{'GET':>7}{'log':>7}{'HEAD':>7}{'LIST':>7}{'PUT':>7}{'read MB':>9}{'wrote MB':>10}"
        )
        _measure(f"bootstrap, {items:,} items", requests, ["bootstrap", "--recipe", str(recipe)], first)
        for night in range(NIGHTS):
            shop = Shop(items + NEW_ITEMS * (night + 1))
            more = shop.write(
                folder / f"night-{night}", NEW_EVENTS, items + NEW_ITEMS * night, day=DAYS + night, days=1
            )
            command = ["nightly", "--set", f'vectors.given.path="{more.vectors}"']
            _measure(f"night {night + 1}, {NEW_ITEMS} items", requests, command, more)


def _measure(name: str, requests: Path, command: list[str], given: Delivery) -> None:
    before = len(requests.read_text().splitlines())
    program = str(Path(sys.executable).with_name("sidmill"))
    sources = ["--items", str(given.items), "--interactions", str(given.log), "--lake", f"s3://{BUCKET}/lake"]
    done = subprocess.run([program, "run", *command, *sources], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`sidmill run {command[0]}` ended with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    lines = [line.split(maxsplit=3) for line in requests.read_text().splitlines()[before:]]
    counts = Counter(kind for kind, *_ in lines)
    counts["log"] = sum(kind == "GET" and "/_delta_log/" in path for kind, _, _, path in lines)
    came, went = (sum(int(line[place]) for line in lines) / 1e6 for place in (1, 2))
    kinds = "".join(f"{counts[kind]:>7,}" for kind in ("GET", "log", "HEAD", "LIST", "PUT"))
    print(f"{name:<28}{len(lines):>9,}{kinds}{went:>9,.1f}{came:>10,.1f}", flush=True)


@contextmanager
def store_server(requests: Path) -> Iterator[Path]:
    """Start the server, and set its clients up in the environment; yield the file to which it writes its requests."""
    requests.touch()
    with s3_server("-m", "bench.runs.counting_store", str(requests)) as settings:
        os.environ.update(settings)
        yield requests
