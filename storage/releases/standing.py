"""Pinned and retired releases and models: pointers beside those of the aliases.

A retirement is final. Pins, retirements and aliases are rows of one table, so whoever moves one of them has seen the
others: a release cannot be retired and published at once.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from storage.commit import Provenance
from storage.errors import LakeNotFound, Retired
from storage.lake import Lake
from storage.releases.pointers import Pointer, move_pointer, newest_values, read_pointer
from storage.schemas import POINTERS

PIN, RETIRED = "pin:", "retired:"
"""Prefixes of the names of pointers; what follows is the id of a release or a model."""


@dataclass(frozen=True)
class Pin:
    """A release that stays, by a person's wish, for good or `until` a time."""

    reason: str
    at: datetime
    until: datetime | None

    def holds(self, now: datetime) -> bool:
        return self.until is None or now < self.until

    def __str__(self) -> str:
        until = f" until {self.until:%Y-%m-%d}" if self.until else ""
        return f"pinned on {self.at:%Y-%m-%d}{until}: {self.reason}"


@dataclass(frozen=True)
class Standing:
    """Pins by release, and retirements by release or model with their times."""

    pins: Mapping[str, Pin] = field(default_factory=dict)
    retired: Mapping[str, datetime] = field(default_factory=dict)


def standing_of(rows: pa.Table) -> Standing:
    """Return what the rows of the table of pointers say."""
    pins, retired = dict[str, Pin](), dict[str, datetime]()
    for pointer in newest_values(rows):
        if pointer.name.startswith(PIN) and pointer.value and pointer.at:
            until = pointer.value["until"]
            when = datetime.fromisoformat(until) if until else None
            pins[pointer.name.removeprefix(PIN)] = Pin(pointer.value["reason"], pointer.at, when)
        elif pointer.name.startswith(RETIRED) and pointer.at:
            retired[pointer.name.removeprefix(RETIRED)] = pointer.at
    return Standing(pins, retired)


def read_standing(lake: Lake) -> Standing:
    """Return the pins and retirements of a lake."""
    return standing_of(lake.read("pointers"))


def require_staying(rows: pa.Table, *names: str | None) -> None:
    """Raise Retired if one of some releases and models is retired, by the rows of the table of pointers."""
    retired = standing_of(rows).retired
    for name in names:
        if name is not None and name in retired:
            raise retirement_of(name, retired[name])


def retirement_of(name: str, at: datetime) -> Retired:
    """Return the error of reading a retired release or model."""
    kind = "models" if name.startswith("m-") else "releases"
    other = "Use a model that stays (`sidmill lake status`)" if kind == "models" else "Read one that stays"
    listed = "" if kind == "models" else " (`sidmill release list`)"
    return Retired(
        f"{name} was retired on {at:%Y-%m-%d} (`sidmill lake gc` removes what retired {kind} pinned). "
        f"{other}{listed}, or restore a backup that has it (`sidmill lake restore`)."
    )


def retirements(names: Iterable[str], now: datetime, note: str, provenance: Provenance) -> pa.Table:
    """Return the rows of the table of pointers that retire some releases and models."""
    rows = [
        {
            "name": f"{RETIRED}{name}",
            "sequence": 1,
            "value": json.dumps({"retired": True}),
            "note": note,
            "at": now,
            "run": provenance.run,
        }
        for name in sorted(names)
    ]
    return pa.Table.from_pylist(rows, schema=POINTERS.schema)


def pin(lake: Lake, release: str, reason: str, until: datetime | None, provenance: Provenance) -> Pin:
    """Keep a release, with all that it pins, until a time or `unpin`. Raise Retired, or ValueError without a reason."""
    if not reason.strip():
        raise ValueError("a pin needs a reason, so that somebody can lift it later: give one with --reason TEXT.")
    if until is not None and until <= datetime.now(UTC):
        raise ValueError(f"--until {until.isoformat()} is past: give a time to come, or leave --until out.")
    value = {"reason": reason, "until": until.isoformat() if until else None}
    moved = move_pointer(
        lake, _pointer(lake, release), value, "pin", provenance, check=lambda rows: require_staying(rows, release)
    )
    return Pin(reason, moved.at or datetime.now(UTC), until)


def unpin(lake: Lake, release: str, provenance: Provenance) -> bool:
    """Lift a pin; return False if there is none."""
    found = _pointer(lake, release)
    if found.value is None:
        return False
    move_pointer(lake, found, None, "unpin", provenance)
    return True


def _pointer(lake: Lake, release: str) -> Pointer:
    if not release.startswith("r-"):
        raise LakeNotFound(f"{release!r} is not the id of a release, such as r-000001: `sidmill release list`.")
    return read_pointer(lake, f"{PIN}{release}")
