"""The record of erasures: when and why, and which releases and models had seen what is gone. It names nobody.

While an erasure goes on, its ids are in a file beside the tables, so that it can be ended after a kill.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from storage.commit import Provenance, append
from storage.lake import Lake
from storage.retention.garbage import ERASING
from storage.schemas import ERASURES

BEGUN, CLEANED, DONE = "begun", "cleaned", "done"


@dataclass(frozen=True)
class Wanted:
    """Ids to take out."""

    users: frozenset[str]
    items: frozenset[str]


@dataclass(frozen=True)
class Seen:
    """Releases that pin rows to take out, releases whose fits have seen them, and models that were trained on them."""

    pinned: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Erasure:
    """One erasure. `subjects` has the number of users and of items; `seen` is where they were."""

    id: str
    at: datetime
    subjects: Mapping[str, int]
    seen: Seen
    reason: str
    run: str
    done: bool


@dataclass(frozen=True)
class ErasureStep:
    """A step of an erasure: BEGUN, which says what it takes out, CLEANED, each time with another `again`, or DONE."""

    erasure: str
    event: str
    subjects: Mapping[str, int] = field(default_factory=dict)
    seen: Seen = Seen()
    reason: str = ""
    again: str = ""


def begin_erasure(lake: Lake, wanted: Wanted, seen: Seen, reason: str, provenance: Provenance) -> str:
    """Record that an erasure began, and return its id: that of the former try, if one of the same ids did not end."""
    former = [name for name, other in unfinished(lake).items() if other == wanted]
    name = former[0] if former else f"e-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    ids = {"users": sorted(wanted.users), "items": sorted(wanted.items)}
    lake.files.write(_file(name), json.dumps(ids).encode())
    subjects = {"users": len(wanted.users), "items": len(wanted.items)}
    _append(lake, ErasureStep(name, BEGUN, subjects, seen, reason), provenance)
    return name


def record_pass(lake: Lake, erasure: str, provenance: Provenance) -> None:
    """Record that all tables were looked through. A run that read rows before, and begins only now, refuses to."""
    _append(lake, ErasureStep(erasure, CLEANED, again=secrets.token_hex(4)), provenance)


def end_erasure(lake: Lake, erasure: str, provenance: Provenance) -> None:
    """Record that nothing is left of what an erasure took out, and forget its ids."""
    _append(lake, ErasureStep(erasure, DONE), provenance)
    lake.files.delete(_file(erasure))


def unfinished(lake: Lake) -> dict[str, Wanted]:
    """Return the erasures that did not end, with what they take out."""
    found = {}
    for each in lake.files.found(ERASING):
        if each.name.endswith(".json"):
            stored = json.loads(lake.files.read(each.path))
            found[each.name.removesuffix(".json")] = Wanted(frozenset(stored["users"]), frozenset(stored["items"]))
    return found


def erasures(lake: Lake) -> list[Erasure]:
    """Return all erasures, oldest first."""
    rows = lake.read("erasures").sort_by("at").to_pylist()
    done = {row["erasure"] for row in rows if row["event"] == DONE}
    return [
        Erasure(
            row["erasure"],
            row["at"],
            json.loads(row["subjects"]),
            Seen(tuple(row["pinned"]), tuple(row["releases"]), tuple(row["models"])),
            row["reason"],
            row["run"],
            row["erasure"] in done,
        )
        for row in rows
        if row["event"] == BEGUN
    ]


def redacted(lake: Lake) -> dict[str, list[str]]:
    """Return the dates of the erasures that took something out of a release, for each such release."""
    found = dict[str, list[str]]()
    for each in erasures(lake):
        for release in each.seen.pinned:
            found.setdefault(release, []).append(f"{each.at:%Y-%m-%d}")
    return found


def _file(erasure: str) -> str:
    return f"{ERASING}/{erasure}.json"


def _append(lake: Lake, step: ErasureStep, provenance: Provenance) -> None:
    row = {
        "erasure": step.erasure,
        "event": step.event,
        "subjects": json.dumps(step.subjects, sort_keys=True),
        "pinned": list(step.seen.pinned),
        "releases": list(step.seen.releases),
        "models": list(step.seen.models),
        "reason": step.reason,
        "at": datetime.now(UTC),
        "run": provenance.run,
    }
    rows = pa.Table.from_pylist([row], schema=ERASURES.schema)
    append(lake, "erasures", rows, f"erasure:{step.erasure}:{step.event}{step.again}", provenance)
