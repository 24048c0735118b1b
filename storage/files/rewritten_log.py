"""Put other files in the place of data files in all entries and checkpoints of a table's log.

Every version stays readable for every reader of Delta, and statistics in the log are those of the new files. Readers
may load the log meanwhile: an entry that removes a file removes the new one too before any entry adds it. The log may
name files that `lake gc` deleted; of these, it then has the number of rows alone.
"""

import io
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from storage.files.data_files import entry_hash
from storage.files.store import Files, sha256
from storage.files.table_log import CHECKPOINT, ENTRY, FILES_HASH, LAST_CHECKPOINT, hashed_entry
from storage.files.trim import read_trim, write_trim

LOADING_S = 3.0
"""Time for readers to load a log, between the two steps."""
LOG = "_delta_log"

Action = dict[str, Any]
Successors = Mapping[str, "Successor | None"]
"""Successors of data files, by path; None for a file that was deleted, whose bounds are to go."""


@dataclass(frozen=True)
class Successor:
    """The file that takes the place of a data file: path below the table, bytes, time and statistics as in a log."""

    path: str
    size: int
    changed_ms: int
    stats: str


def replace_in_log(files: Files, successors: Successors) -> bool:
    """Replace data files in the log of a table; return whether it changed. Safe to rerun after a kill."""
    names = sorted((each.name for each in files.found(LOG)), reverse=True)
    entries = [name for name in names if ENTRY.fullmatch(name)]
    changed = sum(_rewrite(files, name, lambda action: _removing(action, successors)) for name in entries)
    if changed:
        time.sleep(LOADING_S)
    for name in names:
        if ENTRY.fullmatch(name):
            changed += _rewrite(files, name, lambda action: _adding(action, successors))
        elif CHECKPOINT.fullmatch(name):
            changed += _rewrite_checkpoint(files, name, successors)
    return changed > 0


def _rewrite(files: Files, name: str, change: Callable[[Action], list[Action]]) -> bool:
    """Rewrite an entry of the log; return whether it changed."""
    text = files.read(f"{LOG}/{name}")
    before = [json.loads(line) for line in text.splitlines() if line.strip()]
    after = _once(each for action in before for each in change(action))
    if after == before:
        return False
    _rehash(after)
    files.write(f"{LOG}/{name}", "\n".join(json.dumps(each, separators=(",", ":")) for each in after).encode())
    return True


def _once(actions: Iterable[Action]) -> list[Action]:
    """Return actions without repeats: a rerun adds the same removals again."""
    return list({json.dumps(each, sort_keys=True): each for each in actions}.values())


def _rehash(actions: Iterable[Action]) -> None:
    """Set the hash of the files of an entry, if it has one."""
    about: Action = next((each["commitInfo"] for each in actions if "commitInfo" in each), {})
    if about.get(FILES_HASH):
        about[FILES_HASH] = entry_hash(hashed_entry(each["add"]) for each in actions if "add" in each)


def _removing(action: Action, successors: Successors) -> list[Action]:
    """Return a removal without statistics, with that of the successor beside it."""
    removed = action.get("remove")
    if removed is None or (path := unquote(removed["path"])) not in successors:
        return [action]
    bare, successor = {name: value for name, value in removed.items() if name != "stats"}, successors[path]
    return [{"remove": bare}, *([{"remove": _put(bare, successor)}] if successor else [])]


def _adding(action: Action, successors: Successors) -> list[Action]:
    """Return the addition of the successor in the place of that of a file; without bounds if there is none."""
    added = action.get("add")
    if added is None or (path := unquote(added["path"])) not in successors:
        return [action]
    successor = successors[path]
    if successor is None:
        return [{"add": {**added, "stats": _without_bounds(added["stats"])}} if added.get("stats") else action]
    return [{"add": {**_put(added, successor), "modificationTime": successor.changed_ms, "stats": successor.stats}}]


def _without_bounds(stats: str) -> str:
    return json.dumps({"numRecords": json.loads(stats)["numRecords"]})


def _put(file: Action, successor: Successor) -> Action:
    return {**file, "path": successor.path, "size": successor.size}


def _rewrite_checkpoint(files: Files, name: str, successors: Successors) -> bool:
    """Rewrite a checkpoint; return whether it changed."""
    data = files.read(f"{LOG}/{name}")
    stored = pq.read_table(io.BytesIO(data))
    rows = stored.to_pylist()
    after = _standing([_checkpointed(row, successors) for row in rows])
    if after == rows:
        return False
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(after, schema=stored.schema), sink, compression="snappy")
    written = bytes(sink.getvalue())
    version = int(name.split(".")[0])
    trim = read_trim(files)
    trimmed = replace(trim, checkpoints={**trim.checkpoints, version: sha256(written)})
    others = {each: digest for each, digest in trim.former.items() if each != version}
    if version in trim.checkpoints:  # until the new one is written, the former one is right too
        write_trim(files, replace(trimmed, former={**others, version: sha256(data)}))
    files.write(f"{LOG}/{name}", written)
    if version in trim.checkpoints:
        write_trim(files, replace(trimmed, former=others))
    _resize(files, version, len(written))
    return True


def _checkpointed(row: dict[str, Any], successors: Successors) -> dict[str, Any]:
    """Return a row of a checkpoint: one action of the log, the others null."""
    if row["add"] is not None:
        (action,) = _adding({"add": row["add"]}, successors)
        return {**row, "add": action["add"]}
    if row["remove"] is not None and (path := unquote(row["remove"]["path"])) in successors:
        removed, successor = {**row["remove"], "stats": None}, successors[path]
        return {**row, "remove": removed if successor is None else _put(removed, successor)}
    return row


def _standing(rows: list[Action]) -> list[Action]:
    """Return the rows of a checkpoint without additions of files that it says are removed.

    It has such rows if a join removed a file after its successor took its place.
    """
    removed = {row["remove"]["path"] for row in rows if row["remove"] is not None}
    return [row for row in rows if row["add"] is None or row["add"]["path"] not in removed]


def _resize(files: Files, version: int, size: int) -> None:
    """State the bytes of the last checkpoint, which a reader may use."""
    try:
        stated = json.loads(files.read(LAST_CHECKPOINT))
    except FileNotFoundError:
        return
    if stated.get("version") == version and "sizeInBytes" in stated:
        files.write(LAST_CHECKPOINT, json.dumps({**stated, "sizeInBytes": size}, separators=(",", ":")).encode())
