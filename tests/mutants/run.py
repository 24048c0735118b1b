"""Changes modules one place at a time and tells which changes no test notices: `make mutants`.

Runs with the Python that has cosmic-ray, which makes the mutants, in a copy of the checkout; the tests run in forks
of `fork_server.py`, with the Python of the project.
"""

import argparse
import difflib
import hashlib
import json
import random
import sys
import time
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from judge import Judge
from places import Mutant, mutants

HERE = Path(__file__).parent


@dataclass
class Result:
    """`drawn` of `found` mutants were tried; `source` is the hash of the module and of how it is changed."""

    file: str
    tests: str
    source: str
    found: int
    drawn: int
    seconds: float = 0.0
    survivors: list[Mutant] = field(default_factory=list)

    @property
    def line(self) -> str:
        of = f"{self.drawn} of {self.found}" if self.drawn < self.found else f"{self.found}"
        killed, left = self.drawn - len(self.survivors), len(self.survivors)
        return f"{self.file}: {of} mutants, {killed} killed, {left} survive ({self.seconds:.0f} s)"


def tried(judge: Judge, file: str, tests: str, chosen: list[Mutant], result: Result) -> Result:
    path, began = Path(file), time.monotonic()
    before = path.read_text()
    for mutant in chosen:
        after = _changed(before, mutant)
        if after is None:
            result.found, result.drawn = result.found - 1, result.drawn - 1
            continue
        path.write_text(after)
        if judge.verdict(tests) == "passed":
            result.survivors.append(mutant)
            print(f"{mutant.operator} {mutant.occurrence}\n{_diff(file, before, after)}\n", flush=True)
    path.write_text(before)
    result.seconds += time.monotonic() - began
    return result


def _changed(source: str, mutant: Mutant) -> str | None:
    """The source with the change; None where cosmic-ray fails to make it, as in `except (module.Error, Other)`."""
    try:
        return mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
    except AttributeError:
        return None


def _diff(file: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), file, file, n=1, lineterm="")
    return "\n".join(list(lines)[2:])


def survived_before(kept: Path, source: str) -> Result:
    """The result of the last run over a module as it still is."""
    if not kept.exists():
        sys.exit(f"no former run of this module ({kept} is missing): leave AGAIN out")
    told = json.loads(kept.read_text())
    if told["source"] != source:
        sys.exit("the module, or how it is changed, is another since its last run: leave AGAIN out")
    return Result(**{**told, "survivors": [Mutant(**each) for each in told["survivors"]]})


def examined(options: argparse.Namespace, judge: Judge, file: str, entry: dict[str, object], seed: int) -> Result:
    """One module: its survivors of the last run again, or a fresh draw."""
    tests = options.tests or entry.get("tests") or sys.exit(f"{file} is not in modules.toml: say TESTS='FILES'")
    source = hashlib.sha256(Path(file).read_bytes() + (HERE / "places.py").read_bytes()).hexdigest()
    kept = options.results / f"{file.replace('/', '-').removesuffix('.py')}.json"
    found = mutants(Path(file))
    chosen, most = found, entry.get("sample", len(found))
    if len(found) > most:
        chosen = random.Random(seed).sample(found, most)
    result = Result(file, tests, source, len(found), len(chosen))
    if options.again:
        last = survived_before(kept, source)
        chosen, result.drawn, result.seconds = last.survivors, last.drawn, last.seconds
    judge.learn(tests, Path(file))
    result = tried(judge, file, tests, chosen, result)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(asdict(result), indent=1))
    return result


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__)
    told.add_argument("--python", required=True, help="the Python of the project")
    told.add_argument("--results", required=True, type=Path, help="folder for a JSON file of each module")
    told.add_argument("--modules", nargs="*", help="some files; else all of modules.toml")
    told.add_argument("--tests", help="tests in place of those of modules.toml")
    told.add_argument("--again", action="store_true", help="only what survived the last run")
    options = told.parse_args()
    listed = tomllib.loads((HERE / "modules.toml").read_text())
    known = {each["file"]: each for each in listed["module"]}
    results = []
    with Judge(options.python) as judge:
        for file in options.modules or known:
            results.append(examined(options, judge, file, known.get(file, {}), listed["seed"]))
            print(f"{results[-1].line}\n", flush=True)
    if len(results) > 1:
        print("\n".join(each.line for each in results))


if __name__ == "__main__":
    main()
