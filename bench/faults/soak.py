"""Simulated days on a small lake with faults: `python -m bench soak --minutes N --seed S`.

A day has deliveries of items and events in files and messages, nights, trainings, a backfill, a rollback, an erasure
of a user and an item, and `lake gc`, as `bench.faults.soak_plan` draws them from the seed. In every other step a fault
meets the verb: it is killed (`kill -9`) and run again, it stands still while another command runs, a second night
starts beside it, or its clock is off. After every step the lake is compared with a plain account of what was delivered
(`bench.faults.soak_oracle`). The next day has the next seed, and goes on with the same lake, until the time is over.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

from bench.faults.faults import get_ready
from bench.faults.soak_plan import Step, plan_of
from bench.faults.soak_world import Violation, World

LAST = Step(23, "gc", "", 0, 0, 0)


def run(options: argparse.Namespace) -> None:
    """Live through days, and print what happened. Raise RuntimeError at the first violation."""
    with contextlib.ExitStack() as stack:
        folder = options.scratch
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        else:
            folder.mkdir(parents=True)
        folder = folder.resolve()
        get_ready(folder)
        began = time.monotonic()
        world, sizes, wrong = World(folder), [], ""
        try:
            world.begin()
            for day in range(options.days):
                place = ""
                for number, step in enumerate(plan_of(options.seed + day, options.hours, options.share)):
                    if time.monotonic() - began > options.minutes * 60:
                        break
                    place = f"day {day} (seed {options.seed + day}), step {number}, {step}"
                    _take(world, step, day, began)
                else:
                    sizes.append(world.sizes())
                    continue
                place = f"day {day}, the last step"
                world.do(LAST, day)
                sizes.append(world.sizes())
                break
        except (Violation, RuntimeError) as error:
            wrong = f"violation in {place}: {error}"
        _show(world, sizes, (time.monotonic() - began) / 60, options, wrong)
        if wrong:
            raise RuntimeError(wrong)


def _take(world: World, step: Step, day: int, began: float) -> None:
    start = time.monotonic()
    print(f"{(start - began) / 60:5.1f} min  day {day} {step.hour:02}:00 {step.verb:<9}{step.fault:<28}", end="")
    world.do(step, day)
    print(f"{time.monotonic() - start:5.1f} s", flush=True)


def _show(world: World, sizes: list[tuple[int, int]], minutes: float, options: argparse.Namespace, wrong: str) -> None:
    steps, faults = sum(world.verbs.values()), sum(world.faults.values())
    print(f"\n| steps | {steps}: {_counts(world.verbs)} |")
    print("|---|---|")
    print(f"| faults | {faults}: {_counts(world.faults)} |")
    print(f"| reruns after a fault | {world.reruns}; {world.missed} commands had ended before their kill |")
    print(f"| checks against the oracle | {world.oracle.checks} |")
    print(f"| violations | {int(bool(wrong))} |")
    print(f"| seeds, minutes | {options.seed} to {options.seed + max(0, len(sizes) - 1)}, {minutes:.0f} |")
    items, events, sids = (len(each) for each in (world.oracle.live(), world.oracle.stored(), world.oracle.sids))
    print(f"| items, events, published SIDs at the end | {items}, {events}, {sids} |")
    for day, (files, size) in enumerate(sizes):
        print(f"| day {day} | {files} files, {size / 1e6:.2f} MB |")


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counted.items()))
