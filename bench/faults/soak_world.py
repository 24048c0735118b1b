"""The lake of `bench soak` and what happens to it: verbs in processes of their own, and the faults that meet them."""

import copy
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.faults.faults import do_command, write_answer
from bench.faults.killed_verbs import CUTOFF, RECIPE
from bench.faults.killing import Ended, forked, kill, started
from bench.faults.soak_look import look
from bench.faults.soak_oracle import Oracle
from bench.faults.soak_plan import Step
from bench.faults.soak_shop import SoakShop, Topic
from bench.runs.made_shop import DAYS, START

Command = tuple[str, ...]
LONGEST_S = 580.0
STOPPED_S = 4.0
FIRST_DAY = datetime(2026, 7, 11, tzinfo=UTC)
TYPICAL_S = {"night": 6.0, "stream": 6.0, "ingest": 3.0, "train": 60.0, "backfill": 6.0, "erase": 5.0}
"""Seconds of a verb before it was measured; 1 of the others."""
BESIDE = {
    "erase": ("release", "list"),
    "gc": ("lake", "status"),
    "verify": ("lake", "status"),
}
"""What runs beside a verb that stands still: of other verbs a night of `lake gc`, which leaves what is young."""
GC_BESIDE = ("lake", "gc", "--keep", "6", "--grace", "1h", "--yes")
CODEBOOKS = ("[{codes=64},{codes=64},{codes=4}]", "[{codes=32},{codes=32},{codes=16}]")
KEEP = "6"


class Violation(RuntimeError):
    """Raised when the lake is not what the oracle says, or a command did not end as it should."""


class World:
    """The lake, its oracle, its sources and the simulated time. `do` takes a step and compares."""

    def __init__(self, folder: Path) -> None:
        self.oracle = Oracle()
        self.verbs, self.faults, self.seconds = Counter[str](), Counter[str](), Counter[str]()
        self.reruns = self.missed = self.backfills = 0
        self._folder, self._uri = folder, str(folder / "lake")
        self._output, self._answer = folder / "output", folder / "answer"
        self._typical: dict[str, float] = {}
        self._clean: set[str] = set()
        self._held = False
        self._shop = SoakShop(folder / "sources")
        self._topic = Topic(folder / "topic")
        self._clock = FIRST_DAY
        self.seen: dict[str, Any] = {}

    def begin(self) -> None:
        """Make the lake by a bootstrap."""
        recipe = self._folder / "recipe.toml"
        recipe.write_text(RECIPE.format(vectors=self._shop.vectors))
        given = self._shop.first(START, DAYS)
        self.oracle.deliver(given.items, given.events)
        sources = ("--items", str(given.catalogue), "--interactions", str(given.log))
        bounds = ("--cutoff", CUTOFF, "--as-of", "2026-07-10")
        self._run("bootstrap", self._at("run", "bootstrap", "--recipe", str(recipe), *sources, *bounds))
        self.oracle.promised = self.oracle.live()
        self._compare(self.oracle.after_step)

    def do(self, step: Step, day: int) -> None:
        """Take a step with its fault, run it again if that ended it, and compare the lake with the oracle."""
        hour = FIRST_DAY + timedelta(days=day, hours=step.hour + 1)
        self._clock = max(self._clock + timedelta(minutes=4), hour)
        before = copy.deepcopy(self.oracle)
        command = self._prepare(step)
        self._meet(step, command, before)
        self._note(step)
        self.verbs[step.verb] += 1
        self._compare(self.oracle.after_step)

    def sizes(self) -> tuple[int, int]:
        """Return the number of files of the lake and their bytes."""
        found = [path.stat().st_size for path in Path(self._uri).rglob("*") if path.is_file()]
        return len(found), sum(found)

    def _at(self, *command: str) -> Command:
        return (*command, "--lake", self._uri)

    def _prepare(self, step: Step) -> Command:
        """Make what a step reads; tell the oracle of it; return the command."""
        time_of = ("--as-of", self._clock.strftime("%Y-%m-%dT%H:%M:%S"))
        match step.verb:
            case "ingest" | "night" | "stream":
                given = self._shop.draw(step.seed, self._clock, self.oracle)
                self.oracle.deliver(given.items, given.events)
                log = str(given.log)
                if step.verb == "stream":
                    self._topic.send(given.log)
                    log = self._topic.address
                verb = "ingest" if step.verb == "ingest" else "nightly"
                return self._at("run", verb, "--items", str(given.catalogue), "--interactions", log, *time_of)
            case "backfill":
                self.backfills += 1
                levels = f"codebook.levels={CODEBOOKS[(self.backfills + 1) % 2]}"
                return self._at("run", "backfill", "--set", levels, *time_of)
            case "publish":
                newest = max(self.seen["releases"])
                without = ("--without-model",) if step.argument == "backfill" else ()
                return self._at("release", "publish", newest, *without)
            case "rollback":
                return self._at("release", "rollback", "--to", self._earlier())
            case "lift":
                return self._at("release", "hold", "--lift")
            case "erase":
                return self._erase(step.seed)
            case "gc":
                return self._at("lake", "gc", "--keep", KEEP, "--grace", "0s", "--yes")
            case "train":
                return self._at("run", "train")
            case _:
                return self._at("lake", "verify")

    def _erase(self, seed: int) -> Command:
        users = sorted({event[0] for event in self.oracle.stored()})
        items = sorted(self.oracle.live())[:100]
        user, item = users[seed % len(users)], items[seed % len(items)]
        self.oracle.erase(user, item)
        return self._at("lake", "erase", "--user", user, "--item", item, "--reason", "soak", "--wait", "0s", "--yes")

    def _earlier(self) -> str:
        """Return the release that was published before production, and stays."""
        now = self.seen["pair"][0]
        ever = [move["release"] for move in self.seen["moves"] if move["release"] in self.seen["releases"]]
        return str(next((each for each in reversed(ever) if each != now), now))

    def _note(self, step: Step) -> None:
        """Tell the oracle what production has to serve after a step."""
        if step.verb == "rollback":
            self._held, self.oracle.promised = True, None
        if step.verb in ("lift", "publish"):
            self._held = False
        if step.verb in ("night", "stream", "publish") and not self._held:
            self.oracle.promised = self.oracle.live()

    def _meet(self, step: Step, command: Command, before: Oracle) -> None:
        typical = self._typical.get(step.verb, TYPICAL_S.get(step.verb, 1.0))
        moments = (step.moment * typical, step.later * typical)
        pair, pairs = self.seen["pair"], []
        if step.fault:
            self.faults[step.fault] += 1
        match step.fault:
            case "kill" | "kill twice":
                for moment in moments[: 1 if step.fault == "kill" else 2]:
                    pairs += self._kill(step, command, moment, before)
            case "stop":
                self._stop(command, moments[0], self._at(*BESIDE.get(step.verb, GC_BESIDE)), len(command))
                return
            case "second night":
                self._stop(command, moments[0], command, 0)
                return
            case "second night, first killed":
                self._first_killed(command, *moments)
            case "clock behind":
                self._behind(command)
            case "clock ahead":
                self._clock += timedelta(hours=2)
                command = self._with_time(command, self._clock)
            case _:
                ended = self._run(step.verb, command)
                self._typical[step.verb] = ended.seconds
                return
        self._run(step.verb, command)
        self.reruns += step.fault != "clock ahead"
        now = self._look()["pair"] if pairs else None
        wrong = [each for each in pairs if each not in (pair, now)]
        if wrong:
            raise Violation(f"production was {wrong} after a kill; it was {pair} before and {now} after the rerun")

    def _kill(self, step: Step, command: Command, moment: float, before: Oracle) -> list[Any]:
        """Kill a command at a moment; return production's pair then, nothing if the command had ended."""
        self._output.unlink(missing_ok=True)
        ended = forked(lambda: do_command(command), self._output, moment, LONGEST_S)
        if ended.code is not None:
            self.missed += 1
            self._require_well(command, ended.code)
            return []
        seen = self._look(erased=False)
        wrong = self.oracle.after_kill(before, seen, step.verb)
        if wrong:
            raise Violation("\n".join([f"after a kill at {moment:.2f} s:", *wrong[:20]]))
        return [seen["pair"]]

    def _stop(self, command: Command, moment: float, beside: Command, ends: int) -> None:
        """Let a command stand still for some seconds while another runs; both have to end well.

        `ends`: the other one ends meanwhile; a second night waits for the first.
        """
        first = started(lambda: do_command(command), self._output)
        time.sleep(moment)
        _signal(first, signal.SIGSTOP)
        began = time.monotonic()
        second_output = self._output.with_name("output-beside")
        second_output.unlink(missing_ok=True)
        second = started(lambda: do_command(beside), second_output)
        code = _wait(second, 100) if ends else None
        time.sleep(max(0.0, STOPPED_S - (time.monotonic() - began)))
        _signal(first, signal.SIGCONT)
        self._require_well(command, _wait(first, LONGEST_S))
        code = _wait(second, LONGEST_S) if code is None else code
        if code != 0:
            raise Violation(f"{' '.join(beside)} ended with {code}: {second_output.read_text()[-2000:]}")

    def _first_killed(self, command: Command, moment: float, later: float) -> None:
        """Start two nights and kill the first; the second has to end well."""
        first = started(lambda: do_command(command), self._output)
        second_output = self._output.with_name("output-beside")
        second_output.unlink(missing_ok=True)
        time.sleep(min(moment, later))
        second = started(lambda: do_command(command), second_output)
        time.sleep(abs(moment - later))
        kill(first)
        code = _wait(second, LONGEST_S)
        if code != 0:
            raise Violation(f"a second night ended with {code}: {second_output.read_text()[-2000:]}")

    def _behind(self, command: Command) -> None:
        """Run a night whose clock is behind production: it has to be refused, and to change nothing."""
        release = self.oracle.manifests[self.seen["pair"][0]]
        early = datetime.fromisoformat(release["as_of"]) - timedelta(hours=6)
        command = self._with_time(command, early)
        self._output.unlink(missing_ok=True)
        code = forked(lambda: do_command(command), self._output, None, LONGEST_S).code
        said = self._output.read_text()
        if code != 1 or "sidmill: error:" not in said or "Traceback" in said:
            raise Violation(f"a night of an earlier time ended with {code}: {said[-2000:]}")
        if self._look()["moves"] != self.seen["moves"]:
            raise Violation("a night that was refused moved production")

    def _with_time(self, command: Command, at: datetime) -> Command:
        place = command.index("--as-of") + 1
        return (*command[:place], at.strftime("%Y-%m-%dT%H:%M:%S"), *command[place + 1 :])

    def _run(self, verb: str, command: Command) -> Ended:
        self._output.unlink(missing_ok=True)
        ended = forked(lambda: do_command(command), self._output, None, LONGEST_S)
        self._require_well(command, ended.code)
        self.seconds[verb] += round(ended.seconds)
        return ended

    def _require_well(self, command: Command, code: int | None) -> None:
        if code != 0:
            raise Violation(f"{' '.join(command)} ended with {code}: {self._output.read_text()[-3000:]}")

    def _look(self, erased: bool = True) -> dict[str, Any]:
        """Return what the lake holds, seen by a process of its own: this one must start no threads."""
        output = self._folder / "output-look"
        output.unlink(missing_ok=True)
        words = sorted(self.oracle.erased) if erased else []
        work = lambda: write_answer(lambda lake: look(lake, words, self._clean), self._uri, self._answer)  # noqa: E731
        if forked(work, output, None, LONGEST_S).code != 0:
            raise Violation(f"the lake could not be read: {output.read_text()[-3000:]}")
        seen: dict[str, Any] = json.loads(self._answer.read_text())
        self._clean |= set(seen.pop("clean"))
        return seen

    def _compare(self, compare: Callable[[dict[str, Any]], list[str]]) -> None:
        self.seen = self._look()
        wrong = compare(self.seen)
        if wrong:
            raise Violation("\n".join(wrong[:20]))


def _signal(child: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended already, and to its group."""
    if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        os.killpg(child, number)


def _wait(child: int, longest_s: float) -> int:
    """Return the exit code of a process; kill it if it does not end."""
    until = time.monotonic() + longest_s
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            kill(child)
            raise Violation(f"a command did not end within {longest_s:.0f} s")
        time.sleep(0.01)
