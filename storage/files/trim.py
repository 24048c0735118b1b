"""The record of what `lake gc` removed from a table's log: entries below a version, and the checkpoints in their place.

Entries that a checkpoint stands for are needed by nothing: a version opens from the newest checkpoint before it. The
record is written before entries are deleted, so that a gap is known to be wanted, and it holds the hashes of the
checkpoints that the entries can no longer confirm.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from storage.errors import DataCorrupt
from storage.files.store import Files

RECORD = "_trimmed.json"
"""Name of the record, in the folder of the table. Delta ignores files with such a name."""


def checkpoint_name(version: int) -> str:
    """Return the path of a checkpoint below the folder of its table."""
    return f"_delta_log/{version:020d}.checkpoint.parquet"


@dataclass(frozen=True)
class Trim:
    """Entries of a log may be missing `before` this version; `checkpoints` has the sha256 of those in their place.

    `former` has the hash that a checkpoint may still have while it is being rewritten.
    """

    before: int = 0
    checkpoints: Mapping[int, str] = field(default_factory=dict)
    former: Mapping[int, str] = field(default_factory=dict)


def read_trim(files: Files) -> Trim:
    """Return the record of a table; raise DataCorrupt if it cannot be read."""
    try:
        text = files.read(RECORD)
    except (FileNotFoundError, NotADirectoryError):
        return Trim()
    try:
        stored = json.loads(text)
        hashes, former = stored["checkpoints"], stored.get("former", {})
        return Trim(int(stored["before"]), _by_version(hashes), _by_version(former))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataCorrupt(
            f"{files.uri}/{RECORD} is damaged. It says which entries of the log `sidmill lake gc` removed. Restore it "
            "from a backup of the lake."
        ) from error


def _by_version(hashes: Mapping[str, str]) -> dict[int, str]:
    return {int(version): str(digest) for version, digest in hashes.items()}


def write_trim(files: Files, trim: Trim) -> None:
    """Write the record of a table."""
    stored = {"before": trim.before, "checkpoints": _by_name(trim.checkpoints)}
    if trim.former:
        stored["former"] = _by_name(trim.former)
    files.write(RECORD, json.dumps(stored, indent=1).encode() + b"\n")


def _by_name(hashes: Mapping[int, str]) -> dict[str, str]:
    return {str(version): digest for version, digest in sorted(hashes.items())}


def checkpoint_faults(files: Files, trim: Trim) -> Iterator[str]:
    """Yield checkpoints that are missing or were changed since entries were removed in their favour."""
    for version, digest in sorted(trim.checkpoints.items()):
        name = checkpoint_name(version)
        try:
            found = files.hash(name)
        except FileNotFoundError:
            yield f"the checkpoint {files.uri}/{name} is missing"
            continue
        if found not in (digest, trim.former.get(version)):
            yield f"the checkpoint {files.uri}/{name} was changed"
