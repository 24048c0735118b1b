"""Files of a table that no release that stays needs: data files, log entries, checkpoints, unfinished writes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from storage.errors import DataCorrupt
from storage.files.data_files import NAME
from storage.files.store import WRITING, Files, ListedFile
from storage.files.table_log import CHECKPOINT, ENTRY, Log
from storage.files.trim import Trim, checkpoint_name

DRAFT = re.compile(r".*#\d+")
"""Names of files that Delta has not finished."""


@dataclass(frozen=True)
class Garbage:
    """A file of the lake that may be removed; one that is `unnamed` only if it is still old when that is done."""

    kind: str
    path: str
    size: int
    unnamed: bool = False

    @property
    def in_log(self) -> bool:
        """True if it is an entry or a checkpoint of a table's log."""
        return "_delta_log" in self.path.split("/") and not self.unnamed


@dataclass(frozen=True)
class TableGarbage:
    """Garbage of one table, and the record of its log to write before; paths are below the table."""

    trim: Trim | None
    files: list[Garbage]


def table_garbage(
    log: Log, place: Files, listed: list[ListedFile], needed: set[int], leaving: set[int], cutoff_ms: int
) -> TableGarbage:
    """Return what may go from a table of which some versions are needed, and others for some time yet.

    Every version that was the newest at or after the cutoff stays too: runs and readers may have opened it. Raise
    DataCorrupt if the log is damaged, or lacks a needed version.
    """
    for fault in log.faults():
        raise DataCorrupt(fault)
    since = log.newest_at(cutoff_ms)
    lacking = sorted(version for version in needed if not log.opens(version))
    if lacking:
        raise DataCorrupt(
            f"the log of table {log.table!r} at {place.uri} lacks version {lacking[0]}, which a release pins. Restore "
            "the folder _delta_log of the table from a backup of the lake."
        )
    needed = needed | leaving
    stay = needed | {number for number in log.entries if number >= since}
    named = frozenset(chain.from_iterable(log.files_at(version) for version in stay))
    ever = frozenset(chain.from_iterable(entry.added for entry in log.entries.values()))
    files = [*_data_files(listed, named, ever, cutoff_ms), *drafts(listed, cutoff_ms)]
    parts = log_parts(log, needed, since)
    entries = list(_entries(parts, listed))
    return TableGarbage(trim_of(log, place, parts) if entries else None, [*files, *entries])


@dataclass(frozen=True)
class LogParts:
    """The parts of a log that some versions open from: ranges of entries, and the `bases` with checkpoints.

    `before` is the first entry of the newest part. It has no end: others commit while this is decided.
    """

    ranges: tuple[range, ...]
    bases: frozenset[int]
    before: int

    def has(self, version: int) -> bool:
        return version >= self.before or any(version in each for each in self.ranges)


def log_parts(log: Log, needed: set[int], since: int) -> LogParts:
    """Return the parts that some versions open from, and all those from one on."""
    before = log.base(since)
    ranges = tuple(range(log.base(version), version + 1) for version in needed)
    bases = {before, *(each.start for each in ranges)}.intersection(log.checkpoints)
    return LogParts(ranges, frozenset(bases), before)


def _data_files(
    listed: list[ListedFile], named: frozenset[str], ever: frozenset[str], cutoff_ms: int
) -> Iterator[Garbage]:
    for file in listed:
        if file.path in named or file.path.startswith("_delta_log/"):
            continue
        if file.path in ever:
            yield Garbage("data files of former table versions", file.path, file.size)
        elif NAME.fullmatch(file.name) and file.changed_ns < cutoff_ms * 1_000_000:
            yield Garbage("data files that no table version names", file.path, file.size, unnamed=True)


def drafts(listed: list[ListedFile], cutoff_ms: int) -> Iterator[Garbage]:
    """Yield files whose writing did not end, and has not gone on since the cutoff."""
    for file in listed:
        unfinished = file.name.startswith(WRITING) or DRAFT.fullmatch(file.name)
        if unfinished and file.changed_ns < cutoff_ms * 1_000_000:
            yield Garbage("unfinished files", file.path, file.size, unnamed=True)


def _entries(parts: LogParts, listed: list[ListedFile]) -> Iterator[Garbage]:
    """Yield entries and checkpoints that no needed version is opened from."""
    for file in listed:
        if file.path != f"_delta_log/{file.name}":
            continue
        entry, checkpoint = ENTRY.fullmatch(file.name), CHECKPOINT.fullmatch(file.name)
        if entry and not parts.has(int(entry[1])):
            yield Garbage("log entries of former table versions", file.path, file.size)
        if checkpoint and not parts.has(int(checkpoint[1])):
            yield Garbage("checkpoints of former table versions", file.path, file.size)


def trim_of(log: Log, place: Files, parts: LogParts) -> Trim:
    """Return the record of a log of which some parts are left; raise DataCorrupt if a checkpoint is wrong."""
    for version in parts.bases - set(log.trim.checkpoints):
        if log.files_by_checkpoint(version) != log.files_at(version):
            raise DataCorrupt(
                f"the checkpoint {place.uri}/{checkpoint_name(version)} lists other files than the entries before it; "
                "restore the folder _delta_log of the table from a backup of the lake."
            )
    hashes = {version: place.hash(checkpoint_name(version)) for version in sorted(parts.bases)}
    return Trim(max(parts.before, log.trim.before), hashes)
