"""Run the demo: `python -m examples.movielens --movielens DIR --lake DIR [--posters DIR]`, as `make demo` does."""

import argparse
import shlex
import sys
import time
from pathlib import Path

from examples.movielens.data import FIRST, LAST, SECOND, prepare
from flows.cli.main import run_command

BACKFILL_LEVELS = "codebook.levels=[{codes=32},{codes=32},{codes=32},{codes=32}]"

POSTERS_ABOUT = "MovieLens-100K with posters from a folder; films it has no poster for got a rendered cover."


def main() -> int:
    """Run each step as a `sidmill` command, printed before it runs; the first failure ends the demo."""
    parser = argparse.ArgumentParser(prog="python -m examples.movielens", description=__doc__)
    parser.add_argument("--movielens", type=Path, required=True, help="folder with ml-100k.item and ml-100k.inter")
    parser.add_argument("--cache", type=Path, default=Path(".cache/demo"), help="where the slices are written")
    parser.add_argument("--lake", default="./lake")
    parser.add_argument("--posters", type=Path, help="folder with items.csv (title, poster) and posters")
    options = parser.parse_args()
    began = time.perf_counter()
    slices = prepare(options.movielens, options.cache, options.posters)
    covers = f"posters of {options.posters} where it has one, else" if options.posters else "no pictures in it:"
    print(f"MovieLens-100K, {covers} covers rendered from title, year and genre. Lake: {options.lake}")
    for command in commands(slices, options.lake, options.posters):
        print(f"\n$ sidmill {shlex.join(command)}", flush=True)
        code = run_command([*command, "--lake", options.lake])
        if code != 0:
            return code
    print(f"\ndemo finished in {time.perf_counter() - began:.0f} s")
    return 0


def commands(slices: dict[str, Path], lake: str, posters: Path | None) -> list[list[str]]:
    """Return the commands of the demo, in order."""
    about = ["--set", f'about="{POSTERS_ABOUT}"'] if posters else []

    def sources(name: str) -> list[str]:
        return ["--items", str(slices[name] / "items.jsonl"), "--interactions", str(slices[name] / "interactions.csv")]

    return [
        ["run", "bootstrap", "--recipe", "demo", *about, *sources("1-bootstrap"), "--as-of", FIRST],
        ["run", "nightly", *sources("2-night"), "--as-of", SECOND],
        ["run", "ingest", "--recipe", "demo", *sources("3-later"), "--as-of", LAST],
        ["run", "train"],
        ["run", "backfill", "--as-of", FIRST, "--set", BACKFILL_LEVELS],
        *_there_and_back(lake),
        ["release", "list"],
        ["lake", "verify"],
        ["report", "--output", f"{lake}/report.html" if "://" not in lake else "report.html"],
    ]


def _there_and_back(lake: str) -> list[list[str]]:
    """Return a rollback to the first release and a return, unless the history of production already has one."""
    from storage.lake import Lake
    from storage.releases.pointers import pointer_history

    if any(move.note == "rollback" for move in pointer_history(Lake(lake), "production")):
        return []
    return [["release", "rollback", "--to", "r-000001"], ["release", "publish", "r-000002"]]


if __name__ == "__main__":
    sys.exit(main())
