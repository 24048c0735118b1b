"""The audit log: every move of a pointer, which is each publication, rollback, hold, pin and retirement."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from storage.lake import Lake


@dataclass(frozen=True)
class Move:
    """A move of a pointer: when, by which run or command and person, what it is, and the value that it set."""

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
    """Return the moves of all pointers, oldest first."""
    if not lake.exists("pointers"):
        return []
    rows = lake.read("pointers").sort_by([("at", "ascending"), ("name", "ascending")]).to_pylist()
    return [Move(row["at"].isoformat(), row["run"], row["name"], json.loads(row["value"]), row["note"]) for row in rows]
