"""Pointers: named values that move atomically and keep their history. Aliases are pointers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.commit import Provenance, swap
from storage.errors import DataCorrupt, PointerMoved
from storage.format import OLDEST_WRITABLE
from storage.lake import Lake
from storage.schemas import POINTERS


@dataclass(frozen=True)
class Published:
    """Target of an alias."""

    release: str
    model: str | None


@dataclass(frozen=True)
class Pointer:
    """Value of a pointer; each kind of pointer has values of its own shape.

    `sequence` counts the moves of `name` from 1; 0 with value None means never set.
    """

    name: str
    sequence: int
    value: Any
    note: str = ""
    at: datetime | None = None
    run: str = ""

    @property
    def target(self) -> Published | None:
        """The target of an alias; None before its first move, and for a pointer of another kind."""
        if not isinstance(self.value, dict) or "release" not in self.value:
            return None
        return Published(self.value["release"], self.value["model"])


def read_pointer(lake: Lake, name: str) -> Pointer:
    """Return the current value of `name`."""
    return pointer_history(lake, name)[-1]


def pointer_history(lake: Lake, name: str) -> list[Pointer]:
    """Return every value of `name`, oldest first, starting with the unset one."""
    require_pointers(lake)
    return history_of(lake.read("pointers"), name)


def targets_of(history: list[Pointer]) -> list[Published]:
    """Return each target that an alias had, in order of the moves."""
    return [move.target for move in history if move.target is not None]


def require_pointers(lake: Lake) -> None:
    """Raise DataCorrupt if the table of pointers is missing but releases exist: it is made before them."""
    if (lake.format or 0) >= OLDEST_WRITABLE and not lake.exists("pointers") and lake.exists("releases"):
        raise DataCorrupt(
            f"the table 'pointers' of the lake {lake.uri} is missing. It records which release is in production: "
            "restore its folder from a backup of the lake."
        )


def history_of(rows: pa.Table, name: str) -> list[Pointer]:
    """Return the history of `name` by the rows of the table, as `pointer_history` does."""
    return [Pointer(name, 0, None), *moves_of(rows.filter(pc.equal(rows["name"], name)))]


def moves_of(rows: pa.Table) -> list[Pointer]:
    """Return the moves of all names by the rows of the table, in order of name and sequence."""
    ordered = sorted(rows.to_pylist(), key=lambda row: (row["name"], row["sequence"]))
    return [
        Pointer(row["name"], row["sequence"], json.loads(row["value"]), row["note"], row["at"], row["run"])
        for row in ordered
    ]


def newest_values(rows: pa.Table) -> list[Pointer]:
    """Return the current value of every name by the rows of the table."""
    newest: dict[str, dict[str, Any]] = {}
    for row in rows.to_pylist():
        if row["sequence"] >= newest.get(row["name"], row)["sequence"]:
            newest[row["name"]] = row
    return [
        Pointer(name, row["sequence"], json.loads(row["value"]), row["note"], row["at"], row["run"])
        for name, row in newest.items()
    ]


def move_pointer(
    lake: Lake,
    expected: Pointer,
    value: Any,
    note: str,
    provenance: Provenance,
    check: Callable[[pa.Table], None] | None = None,
) -> Pointer:
    """Set the pointer if it is unchanged since `expected` was read, else raise PointerMoved. Linearizable.

    `check` gets the rows of the table that the move is committed on, and may raise to refuse it.
    """

    def decide(rows: pa.Table) -> pa.Table:
        if check is not None:
            check(rows)
        found = history_of(rows, expected.name)[-1]
        if found.sequence != expected.sequence:
            raise PointerMoved(
                f"another run or command moved {expected.name!r} meanwhile: it was {json.dumps(expected.value)} (move "
                f"{expected.sequence}) when this run read it and is {json.dumps(found.value)} (move "
                f"{found.sequence}) now. Nothing was changed; run the command again."
            )
        return pa.Table.from_pylist(
            [
                {
                    "name": expected.name,
                    "sequence": expected.sequence + 1,
                    "value": json.dumps(value, sort_keys=True),
                    "note": note,
                    "at": datetime.now(UTC),
                    "run": provenance.run,
                }
            ],
            schema=POINTERS.schema,
        )

    rows, _ = swap(lake, "pointers", decide, provenance)
    return history_of(rows, expected.name)[expected.sequence + 1]
