"""Verbs that are killed and run again: `python -m bench faults --kills N --seed S`.

Each command of `sidmill` runs in a process of its own on a small lake. It is killed with all that it started (`kill
-9`), at every crash point (`bench.faults.crash_points`) and at random moments of its life. Then production has to be
the former pair of release and model, or the new one. The same command runs again to its end, and the lake has to hold
what it holds after the same command undisturbed (`bench.faults.lake_contents`).
"""

import argparse
import json
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from bench.faults.crash_points import CrashPoints
from bench.faults.erased_ids import files_holding
from bench.faults.killed_verbs import Verb, start_broker, verbs, write
from bench.faults.killing import Ended, forked
from bench.faults.lake_contents import contents, differences, served
from flows.cli.main import run_command
from flows.runtime.server import ensure_server
from pipelines.compute.cluster import shutdown
from storage.lake import Lake

T = TypeVar("T")
Pair = list[str | None] | None
LIBRARIES = (
    "flows.backfill",
    "flows.bootstrap",
    "flows.erase",
    "flows.ingest",
    "flows.nightly",
    "flows.steps.training",
    "flows.train",
    "ray.data",
    "ray.train.torch",
    "scipy.sparse.linalg",
    "sklearn.decomposition",
)
"""Modules that runs import when they need them."""


@dataclass(frozen=True)
class Kill:
    """A moment to kill a run: at the crash point with a number, from 1 on, or after some seconds."""

    point: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        return f"crash point {self.point}" if self.point else f"{self.seconds:.3f} s after its start"


@dataclass
class Outcome:
    """Kills of a verb: how many ended as the undisturbed run, and what differed otherwise."""

    equal: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def run(options: argparse.Namespace) -> None:
    """Kill verbs, print a row for each, and raise RuntimeError if an outcome differs."""
    with tempfile.TemporaryDirectory(prefix="sidmill-faults-") as name:
        folder, draw = Path(name), random.Random(options.seed)
        get_ready(folder)
        sources = folder / "sources"
        if forked(lambda: write(sources), folder / "output").code != 0:
            raise RuntimeError((folder / "output").read_text())
        known = verbs(sources, start_broker(sources), str(folder / "lake"))
        wrong: list[str] = []
        print("| verb | undisturbed | crash points | random kills | ended equal | not |", flush=True)
        print("|---|---|---|---|---|---|", flush=True)
        chosen = options.verbs.split(",")
        for place, verb in enumerate(known[each] for each in chosen):
            kills = options.kills // len(chosen) + (place < options.kills % len(chosen))
            wrong += _row(Case(folder, verb), kills, options, draw)
    if wrong:
        again = f"--seed {options.seed} --kills {options.kills} --verbs {options.verbs}"
        raise RuntimeError("\n".join([f"{len(wrong)} runs ended otherwise (python -m bench faults {again}):", *wrong]))


def _row(case: "Case", kills: int, options: argparse.Namespace, draw: random.Random) -> list[str]:
    case.prepare()
    reached = case.undisturbed()
    wanted = [Kill(point) for point in spread(len(reached), options.points)]
    outcome = Outcome()
    killed = sum(case.judge(kill, outcome) for kill in wanted)
    left = kills
    while left:  # a run that ended before its kill does not count
        left -= case.judge(Kill(seconds=draw.uniform(0, case.seconds)), outcome)
    points, moments = outcome.equal["point"], outcome.equal["moment"]
    of = f"{killed} of {len(reached)}"
    print(
        f"| {case.verb.name} | {case.seconds:.1f} s | {of} | {kills} | {points + moments} | {len(outcome.wrong)} |",
        flush=True,
    )
    return outcome.wrong


def spread(count: int, most: int | None) -> Iterable[int]:
    """Return the numbers of the crash points to kill at: all, or `most` of them, evenly spread."""
    if most is None or most >= count:
        return range(1, count + 1)
    return sorted({1 + place * count // most for place in range(most)})


class Case:
    """A verb in a folder, with the lake that it starts from, and what that lake holds after it."""

    def __init__(self, folder: Path, verb: Verb) -> None:
        self.verb = verb
        self.seconds = 0.0
        self._lake, self._scratch = folder / "lake", folder / verb.name
        self._start, self._points = self._scratch / "start", self._scratch / "points"
        self._output, self._answer = self._scratch / "output", self._scratch / "answer"
        self._whole: dict[str, list[str]] = {}
        self._pairs: list[Pair] = []

    def prepare(self) -> None:
        """Make the lake that the verb starts from."""
        shutil.rmtree(self._lake, ignore_errors=True)
        self._scratch.mkdir()
        for command in self.verb.before:
            self._require_end(self._run(command))
        if self._lake.exists():
            shutil.copytree(self._lake, self._start)
        self._pairs = [self._asked(served)]
        if self.verb.erased and not self._holding():
            raise RuntimeError(f"the lake holds none of {self.verb.erased} before the erasure")

    def undisturbed(self) -> list[str]:
        """Run the verb twice; return its crash points. Raise RuntimeError if both do not give the same."""
        found = []
        for _ in range(2):
            self._renew()
            ended = self._require_end(self._run(self.verb.command, watch=True))
            found.append(self._asked(contents))
        unequal = differences(*found)
        if unequal or found[0]["faults"]:
            raise RuntimeError(f"two undisturbed runs of {self.verb.name} differ: {unequal} {found[0]['faults']}")
        if holding := self._holding():
            raise RuntimeError(f"after an undisturbed run {holding} hold what it erases")
        self.seconds, self._whole = ended.seconds, found[0]
        self._pairs.append(self._asked(served))
        return self._points.read_text().splitlines()

    def judge(self, kill: Kill, outcome: Outcome) -> bool:
        """Kill the verb, run it again, and note the outcome; return False if it ended before it was killed."""
        self._renew()
        killed = self._run(self.verb.command, watch=True, kill=kill)
        if killed.code is not None:
            return False
        points = self._points.read_text().splitlines() if self._points.exists() else []
        last = points[-1] if points else "nothing"
        where = f"{self.verb.name} killed at {kill} (the last point reached: {len(points)}, {last})"
        try:
            fault = self._fault()
        except RuntimeError as error:
            fault = str(error)
        if fault:
            outcome.wrong.append(f"{where}: {fault}")
            print(f"  {outcome.wrong[-1]}", flush=True)
        else:
            outcome.equal["point" if kill.point else "moment"] += 1
        return True

    def _fault(self) -> str:
        """Return what is wrong after a kill, and after the same command was run again; nothing if all is right."""
        pair = self._asked(served)
        if pair not in self._pairs:
            return f"production was {pair}, which is none of {self._pairs}"
        self._require_end(self._run(self.verb.command))
        held = [f"{path} holds what was erased" for path in self._holding()]
        return "; ".join([*differences(self._whole, self._asked(contents)), *held])

    def _holding(self) -> list[str]:
        """Return the files that hold an erased id."""
        return self._asked(lambda lake: files_holding(lake, list(self.verb.erased), set())[0])

    def _renew(self) -> None:
        """Put the lake back to where the verb starts."""
        shutil.rmtree(self._lake, ignore_errors=True)
        if self._start.exists():
            shutil.copytree(self._start, self._lake)

    def _run(self, command: tuple[str, ...], watch: bool = False, kill: Kill | None = None) -> Ended:
        self._output.unlink(missing_ok=True)
        kill = kill or Kill()
        points = (lambda: CrashPoints(self._points, kill.point)) if watch else None
        return forked(lambda: do_command(command, points), self._output, kill.seconds)

    def _require_end(self, ended: Ended) -> Ended:
        if ended.code:
            raise RuntimeError(f"the run ended with exit code {ended.code}: {self._output.read_text()[-2000:]}")
        return ended

    def _asked(self, ask: Callable[[Lake], T]) -> T:
        """Return what `ask` finds out about the lake, in a process of its own: this one must start no threads."""
        self._require_end(forked(lambda: write_answer(ask, str(self._lake), self._answer), self._output))
        answer: T = json.loads(self._answer.read_text())
        return answer


def get_ready(folder: Path) -> None:
    """Import what runs need, so that forks have it, and start a Prefect server that all runs share."""
    scratch = folder / "scratch"
    scratch.mkdir()
    os.environ |= {"PREFECT_HOME": str(folder / "prefect"), "TMPDIR": str(scratch)}
    tempfile.tempdir = str(scratch)  # killed runs leave files there
    os.environ.pop("PREFECT_API_URL", None)
    for name in LIBRARIES:
        import_module(name)
    ensure_server()


def write_answer(ask: Callable[[Lake], object], lake: str, place: Path) -> int:
    """Write what `ask` finds out about a lake to a file, as JSON."""
    place.write_text(json.dumps(ask(Lake(lake))))
    return 0


def do_command(command: tuple[str, ...], points: Callable[[], CrashPoints] | None = None) -> int:
    """Run a command as `sidmill` does; return its exit code."""
    watched = points() if points else None
    if watched:
        watched.watch()
    code = run_command(command)
    if watched:
        watched.reach("end")
    shutdown()
    return code
