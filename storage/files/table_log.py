"""The log of a table by entry: its completeness, the files of each version, and the cause of a read error.

Entries may be missing where `storage.files.trim` says so; the first entry after a gap then has a checkpoint.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from storage.errors import DataCorrupt, LakeError, LakeNotFound
from storage.files.data_files import entry_hash
from storage.files.store import Files
from storage.files.trim import Trim, checkpoint_faults, read_trim

ENTRY = re.compile(r"(\d{20})\.json")
CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")
REMEDY = "restore the folder _delta_log of the table from a backup of the lake"
FILES_HASH = "sidmill.files"
"""Key of a commit's metadata with the hash of its file entries."""
LAST_CHECKPOINT = "_delta_log/_last_checkpoint"
RUN = "sidmill.run"
"""Key of a commit's metadata with its writer: a run, or a command with user and host."""
SEEN = "sidmill.seen"
"""Key of a commit's metadata with the newest versions of tables that its writer had opened: they exist since then."""


@dataclass(frozen=True)
class LogEntry:
    """One entry of a log: the paths it adds and removes, the time of its commit in ms, or its fault.

    `seen` has the newest versions of tables that its writer had opened. An entry `joins` if it has no new row: it puts
    rows of the files that it removes into others. `run` is its writer, empty if that was another program, and `said_ms`
    the time that its writer had.
    """

    name: str
    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    fault: str = ""
    at_ms: int = 0
    seen: Mapping[str, int] = field(default_factory=dict)
    joins: bool = False
    run: str = ""
    said_ms: int = 0


def entry_path(version: int) -> str:
    """Return the path of the entry of a version, below its table."""
    return f"_delta_log/{version:020d}.json"


class Log:
    """The log of one table, read once."""

    def __init__(self, files: Files, table: str) -> None:
        self._files, self.table = files, table

    @cached_property
    def entries(self) -> dict[int, LogEntry]:
        """Existing entries, by version."""
        found = {number: _entry(name, self._files.read(f"_delta_log/{name}")) for number, name in self._numbered(ENTRY)}
        # The clock of a writer may be slow; that of the store then says when the entry was written.
        return {number: replace(each, at_ms=max(each.at_ms, self._names[each.name])) for number, each in found.items()}

    @cached_property
    def checkpoints(self) -> list[int]:
        """Versions that have a checkpoint, and an entry to go on from."""
        return [number for number, _ in self._numbered(CHECKPOINT) if number in self.entries]

    @cached_property
    def trim(self) -> Trim:
        """The record of entries that `lake gc` removed."""
        return read_trim(self._files)

    @cached_property
    def _names(self) -> dict[str, int]:
        """Names of the files of the log, in order, with the times in ms at which they were written."""
        listed = self._files.filesystem.get_file_info(pafs.FileSelector("_delta_log", allow_not_found=True))
        return dict(sorted((each.base_name, (each.mtime_ns or 0) // 1_000_000) for each in listed))

    def _numbered(self, pattern: re.Pattern[str]) -> list[tuple[int, str]]:
        return [(int(match[1]), match[0]) for name in self._names if (match := pattern.fullmatch(name))]

    def faults(self) -> Iterator[str]:
        """Yield faults of the log: entries that are missing, truncated, or differ in their files from the commit."""
        yield from (f"{fault}; {REMEDY}." for fault in checkpoint_faults(self._files, self.trim))
        expected, places = 0, dict[tuple[frozenset[str], int], int]()
        for number, entry in self.entries.items():
            first = max(expected, self.trim.before)
            if number > first:
                yield (
                    f"the log of table {self.table!r} at {self._files.uri} lacks the entries {first} to {number - 1}: "
                    f"another program deleted them, so releases that pin these versions cannot be read; {REMEDY}."
                )
            expected = number + 1
            first = places.setdefault((entry.added, entry.said_ms), number) if entry.added else number
            if fault := entry.fault or self._out_of_place(number, entry, first):
                yield f"entry {entry.name} of the log of table {self.table!r} at {self._files.uri} {fault}; {REMEDY}."

    def _out_of_place(self, number: int, entry: LogEntry, first: int) -> str:
        """Return what is wrong with the place of an entry, whose files the entry `first` added first."""
        seen = entry.seen.get(self.table, -1)
        if seen >= number:
            return f"was moved: its writer had seen version {seen} of the table"
        return f"is a copy of the entry of version {first}" if first < number else ""

    def files_at(self, version: int) -> frozenset[str]:
        """Return the paths of the files of a version, for a log without faults; none for one that does not open."""
        return self._states.get(version, frozenset())

    def opens(self, version: int) -> bool:
        """Return whether all entries from a checkpoint, or from the first version, up to a version exist."""
        return all(number in self.entries for number in range(self.base(version), version + 1))

    def base(self, version: int) -> int:
        """Return the version from whose checkpoint a version opens; 0 if there is none before it."""
        return max((each for each in self.checkpoints if each <= version), default=0)

    def newest_at(self, time_ms: int) -> int:
        """Return the version that was the newest at a time; the first one there is for an earlier time."""
        later = min((number for number, each in self.entries.items() if each.at_ms > time_ms), default=None)
        before = [number for number in self.entries if later is None or number < later]
        return max(before, default=min(self.entries))

    @cached_property
    def _states(self) -> dict[int, frozenset[str]]:
        states: dict[int, frozenset[str]] = {}
        now: frozenset[str] = frozenset()
        for number, entry in self.entries.items():
            after_gap = number > 0 and number - 1 not in states
            if after_gap and number not in self.checkpoints:
                continue  # a removal that was killed left it: nothing opens there any more
            now = self.files_by_checkpoint(number) if after_gap else (now - entry.removed) | entry.added
            states[number] = now
        return states

    def files_by_checkpoint(self, version: int) -> frozenset[str]:
        """Return the paths of the files of a version with a checkpoint, as the checkpoint has them."""
        try:
            actions = pa.table(DeltaTable(self._files.uri, version=version).get_add_actions())
        except (DeltaError, OSError) as error:
            raise why_unreadable(self._files, self.table, None, error) from error
        return frozenset(map(unquote, actions["path"].to_pylist()))


def _entry(name: str, text: bytes) -> LogEntry:
    try:
        actions: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines() if line.strip()]
        return _entry_of(name, actions)
    except (ValueError, KeyError, TypeError, AttributeError):  # also JSON of another shape, as after a changed byte
        return LogEntry(name, fault="is cut short or damaged")


def _entry_of(name: str, actions: list[dict[str, Any]]) -> LogEntry:
    if not actions:
        return LogEntry(name, fault="is empty")
    added = [action["add"] for action in actions if "add" in action]
    about: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    said = about.get(FILES_HASH)
    now = entry_hash(map(hashed_entry, added if said else []))
    return LogEntry(
        name,
        frozenset(unquote(file["path"]) for file in added),
        frozenset(unquote(action["remove"]["path"]) for action in actions if "remove" in action),
        "lists other files or statistics than were committed" if said and now != said else "",
        int(about.get("timestamp", 0)),
        json.loads(about.get(SEEN, "{}")),
        bool(added) and not any(file.get("dataChange", True) for file in added),
        str(about.get(RUN, "")),
        int(about.get("timestamp", 0)),
    )


def hashed_entry(file: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the hash of a commit's files is made of, of an added file as the log stores it."""
    parts = {part: file[part] for part in ("path", "size", "partitionValues")}
    return {**parts, "stats": json.loads(file["stats"])}


def read_entry(files: Files, version: int) -> LogEntry:
    """Return one entry of the log of a table; raise FileNotFoundError."""
    name = f"{version:020d}.json"
    return _entry(name, files.read(f"_delta_log/{name}"))


def joined_files(files: Files, before: Collection[str], since: int, version: int) -> set[str]:
    """Return the files that hold rows of the files `before` alone, because commits after `since` joined these.

    Where `lake gc` cut the log between the versions, some may be left out.
    """
    held = set(before)
    for number in range(since + 1, version + 1):
        with suppress(FileNotFoundError):
            entry = read_entry(files, number)
            if entry.joins and entry.removed <= held:
                held |= entry.added
    return held - set(before)


def before_joins(files: Files, version: int) -> int:
    """Return the oldest version with the rows of a version: the commits between them only joined files."""
    with suppress(FileNotFoundError):
        while version > 0 and read_entry(files, version).joins:
            version -= 1
    return version


def why_unreadable(files: Files, table: str, version: int | None, error: Exception) -> LakeError:
    """Return the error to raise if a table does not open at a version: the fault in one line, and the remedy."""
    log = Log(files, table)
    for fault in log.faults():
        return DataCorrupt(fault)
    newest = max(log.entries, default=-1)
    if version is not None and version < log.trim.before:
        return LakeNotFound(
            f"version {version} of table {table!r} at {files.uri} is gone: `sidmill lake gc` retired the releases that "
            "pinned it. Read a release that stays (`sidmill release list`), or restore a backup that has it."
        )
    if version is not None and version > newest >= 0:
        return LakeNotFound(f"table {table!r} at {files.uri} has no version {version}; its newest is {newest}.")
    return DataCorrupt(f"the log of table {table!r} at {files.uri} cannot be read ({_first_line(error)}): {REMEDY}.")


def is_table(uri: str) -> bool:
    """Return whether there is a table at `uri`; raise DataCorrupt if a file stands in its place."""
    try:
        return bool(DeltaTable.is_deltatable(uri))
    except (DeltaError, OSError) as error:
        files = Files(uri)
        path = files.local_path("_delta_log")
        what = next((each for each in (path.parent, path) if each.is_file()), None) if path else None
        if what is None:
            raise
        raise DataCorrupt(
            f"{what} is a file, but the log of a table is in a folder there: restore the folder of the table from a "
            "backup of the lake."
        ) from error


def require_whole(files: Files, table: str, version: int) -> None:
    """Raise DataCorrupt if the entry of a version is empty.

    A power loss can leave one on a local disk, and Delta takes it for an empty commit.
    """
    path = files.local_path(entry_path(version))
    if path is not None and path.exists() and path.stat().st_size == 0:
        raise why_unreadable(files, table, version, ValueError("an entry is empty"))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
