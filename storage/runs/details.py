"""Details of the events of a run: its stages and its result, which the table `runs` and signs of life hold as JSON.

Each kind of run has figures of its own, and a later version may record more: both are kept among `others`, so that a
record is written as it was read. A record of an earlier version may lack any field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

OTHERS = "others"


@dataclass(frozen=True)
class RecordedStage:
    """A finished stage: its duration in seconds, and its counts of rows where it has any.

    `unchanged` rows were there already. `others` has the figures of this stage alone, such as the `history` of a
    training.
    """

    name: str
    seconds: float | None = None
    rows_in: int | None = None
    rows_out: int | None = None
    unchanged: int | None = None
    quarantined: int | None = None
    by_reason: Mapping[str, int] | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, stored: Mapping[str, Any]) -> RecordedStage:
        return cls(**_arguments(cls, {"name": name, **stored}))

    def as_record(self) -> dict[str, Any]:
        """The stage as JSON values by name, the name of the stage first."""
        return {"name": self.name, **_stored(self)}


@dataclass(frozen=True)
class RunResult:
    """The end of a run: what it made, or its error.

    `made` is False if the run found nothing to do, `published` says whether production moved, and `blocked` which gate
    kept it from moving. `log` is the path of the log of a failure. Signs of life also have the bytes that the process
    of the run read and wrote. `others` has what one kind of run alone returns.
    """

    release: str | None = None
    model: str | None = None
    made: bool | None = None
    published: bool | None = None
    blocked: str | None = None
    error: str | None = None
    log: str | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> RunResult:
        return cls(**_arguments(cls, stored))

    def as_record(self) -> dict[str, Any]:
        """The result as JSON values by name, without what it does not have."""
        return _stored(self)


def _arguments(record: type[RecordedStage | RunResult], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored values as arguments of a record. A stored null is kept among the others."""
    known = {each.name for each in fields(record)} - {OTHERS}
    named = {name: value for name, value in stored.items() if name in known and value is not None}
    return {**named, OTHERS: {name: value for name, value in stored.items() if name not in named}}


def _stored(record: RecordedStage | RunResult) -> dict[str, Any]:
    """Return the values of a record as they are stored, in alphabetical order."""
    named = {name: value for name, value in vars(record).items() if name != OTHERS and value is not None}
    return dict(sorted({**named, **record.others}.items()))
