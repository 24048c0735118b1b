"""The plan of a simulated day of `bench soak`, drawn from a seed: the verbs, what they deliver, and each fault."""

import random
from dataclasses import dataclass

FAULTS_OF = {
    "ingest": ("kill", "kill twice", "stop"),
    "night": (
        "kill",
        "kill twice",
        "stop",
        "second night",
        "second night, first killed",
        "clock behind",
        "clock ahead",
    ),
    "stream": ("kill", "kill twice", "stop", "second night", "second night, first killed"),
    "train": ("kill", "stop"),
    "backfill": ("kill", "kill twice", "stop"),
    "erase": ("kill", "kill twice", "stop"),
    "gc": ("kill", "kill twice", "stop"),
    "publish": ("kill", "stop"),
    "rollback": ("kill", "stop"),
    "lift": ("kill", "stop"),
    "verify": (),
}
"""Faults that may meet a verb."""


@dataclass(frozen=True)
class Step:
    """A verb at an hour, with its fault, none if it is empty. `moment` and `later` are shares of the verb's time.

    `seed` draws what is delivered. `argument` says more of a verb: which codebook, which release.
    """

    hour: int
    verb: str
    fault: str
    moment: float
    later: float
    seed: int
    argument: str = ""


def plan_of(seed: int, hours: int, share: float) -> list[Step]:
    """Return the steps of a day; `share` of them meet a fault."""
    draw = random.Random(seed)
    places: dict[int, list[tuple[str, str]]] = {hour: [] for hour in range(hours)}
    for hour in range(hours):
        before = [("ingest", "")] if draw.random() < 0.4 else []
        places[hour] += [*before, ("stream" if draw.random() < 0.2 else "night", "")]
    _once(draw, places, [("backfill", ""), ("publish", "backfill")])
    _once(draw, places, [("erase", "")])
    end = draw.choice([[("lift", ""), ("night", "")], [("publish", "newest")]])
    _once(draw, places, [("rollback", ""), ("night", ""), *end])
    for verb, times in (("train", hours // 12), ("gc", max(1, hours // 6)), ("verify", max(1, hours // 12))):
        for _ in range(times):
            _once(draw, places, [(verb, "")])
    places[hours - 1].append(("gc", ""))
    return [_step(draw, hour, verb, argument, share) for hour in range(hours) for verb, argument in places[hour]]


def _once(draw: random.Random, places: dict[int, list[tuple[str, str]]], verbs: list[tuple[str, str]]) -> None:
    places[draw.randrange(len(places))] += verbs


def _step(draw: random.Random, hour: int, verb: str, argument: str, share: float) -> Step:
    met, kinds = draw.random() < share, FAULTS_OF[verb]
    fault = draw.choice(kinds) if met and kinds else ""
    return Step(hour, verb, fault, draw.random(), draw.random(), draw.randrange(1 << 30), argument)
