"""The log of a table by entry: its completeness, the files of each version, and the cause of a read error."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import pyarrow.fs as pafs

from storage.errors import DataCorrupt, LakeError, LakeNotFound
from storage.files.data_files import entry_hash
from storage.files.store import Files

ENTRY = re.compile(r"(\d{20})\.json")
REMEDY = "restore the folder _delta_log of the table from a backup of the lake"
FILES_HASH = "sidmill.files"
"""Key of a commit's metadata with the hash of its file entries."""


@dataclass(frozen=True)
class Entry:
    """One entry of a log: the paths it adds and removes, or its fault."""

    name: str
    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    fault: str = ""


class Log:
    """The log of one table, read once."""

    def __init__(self, files: Files, table: str) -> None:
        self._files, self.table = files, table

    @cached_property
    def entries(self) -> dict[int, Entry]:
        """Existing entries, by version."""
        listed = self._files.filesystem.get_file_info(pafs.FileSelector("_delta_log", allow_not_found=True))
        numbers = sorted((int(match[1]), match[0]) for each in listed if (match := ENTRY.fullmatch(each.base_name)))
        return {number: _entry(name, self._files.read(f"_delta_log/{name}")) for number, name in numbers}

    def faults(self) -> Iterator[str]:
        """Yield faults of the log: entries that are missing, truncated, or differ in their files from the commit."""
        expected = 0
        for number, entry in self.entries.items():
            if number > expected:
                yield (
                    f"the log of table {self.table!r} at {self._files.uri} lacks the entries {expected} to "
                    f"{number - 1}: another program deleted them, so releases that pin these versions cannot be read; "
                    f"{REMEDY}."
                )
            expected = number + 1
            if entry.fault:
                yield (
                    f"entry {entry.name} of the log of table {self.table!r} at {self._files.uri} {entry.fault}; "
                    f"{REMEDY}."
                )

    def files_at(self, version: int) -> frozenset[str]:
        """Return the paths of the files of a version, for a log without faults."""
        return self._states.get(version, frozenset())

    @cached_property
    def _states(self) -> dict[int, frozenset[str]]:
        states: dict[int, frozenset[str]] = {}
        now: frozenset[str] = frozenset()
        for number, entry in self.entries.items():
            now = (now - entry.removed) | entry.added
            states[number] = now
        return states


def _entry(name: str, text: bytes) -> Entry:
    try:
        actions: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        return Entry(name, fault="is cut short or damaged")
    if not actions:
        return Entry(name, fault="is empty")
    added = [action["add"] for action in actions if "add" in action]
    said = next((action["commitInfo"].get(FILES_HASH) for action in actions if "commitInfo" in action), None)
    now = entry_hash(
        {**{part: file[part] for part in ("path", "size", "partitionValues")}, "stats": json.loads(file["stats"])}
        for file in (added if said else [])
    )
    return Entry(
        name,
        frozenset(unquote(file["path"]) for file in added),
        frozenset(unquote(action["remove"]["path"]) for action in actions if "remove" in action),
        "lists other files or statistics than were committed" if said and now != said else "",
    )


def why_unreadable(files: Files, table: str, version: int | None, error: Exception) -> LakeError:
    """Return the error to raise if a table does not open at a version: the fault in one line, and the remedy."""
    log = Log(files, table)
    for fault in log.faults():
        return DataCorrupt(fault)
    newest = max(log.entries, default=-1)
    if version is not None and version > newest >= 0:
        return LakeNotFound(f"table {table!r} at {files.uri} has no version {version}; its newest is {newest}.")
    return DataCorrupt(f"the log of table {table!r} at {files.uri} cannot be read ({_first_line(error)}): {REMEDY}.")


def require_whole(files: Files, table: str, version: int) -> None:
    """Raise DataCorrupt if the entry of a version is empty.

    A power loss can leave one on a local disk, and Delta takes it for an empty commit.
    """
    path = files.local_path(f"_delta_log/{version:020d}.json")
    if path is not None and path.exists() and path.stat().st_size == 0:
        raise why_unreadable(files, table, version, ValueError("an entry is empty"))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
