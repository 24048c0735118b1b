"""The audit log: moves of pointers (each publication, rollback, hold, pin and retirement), and erasures."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from storage.erasure.record import erasures
from storage.lake import Lake
from storage.runs.lease import PREFIX as LEASE


@dataclass(frozen=True)
class Move:
    """A move of a pointer: its time, the run or the command and person that made it, the pointer, and its new value.

    An erasure counts as one, with the number of users and items as its value.
    """

    at: str
    who: str
    pointer: str
    value: Any
    note: str

    def as_record(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        value = self.value
        if isinstance(value, dict) and value.keys() == {"release", "model"}:
            value = f"({value['release']}, {value['model'] or 'no model'})"
        elif not isinstance(value, str):
            value = json.dumps(value)
        return f"{self.at[:19]}  {self.pointer} -> {value}  {self.note}  {self.who}"


def audit(lake: Lake) -> list[Move]:
    """Return the moves of all pointers but leases, and the erasures, oldest first."""
    moves = [
        Move(row["at"].isoformat(), row["run"], row["name"], json.loads(row["value"]), row["note"])
        for row in lake.read("pointers").to_pylist()
        if not row["name"].startswith(LEASE)
    ]
    moves += [
        Move(each.at.isoformat(), each.run, f"erasure {each.id}", each.subjects, each.reason) for each in erasures(lake)
    ]
    return sorted(moves, key=lambda move: (move.at, move.pointer))
