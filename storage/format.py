"""The format version of a lake: a file `lake.json` beside the tables, written before anything else.

Format 1 has no such file. Format 2 names data files by their hashes, keeps every log entry, and has the table
`pointers` from the start. In format 3 the vectors of a former fusion may be out of their table, and are written again
under other keys: `lake gc` marks a lake of format 2 before it takes them out for the first time. A program refuses a
lake of a newer format, and writes to lakes of formats 2 and 3.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from storage.errors import DataCorrupt, LakeFormat, LakeUnusable
from storage.files.store import Files
from storage.files.table_log import is_table

FORMAT = 3
OLDEST_WRITABLE = 2
MARKER = "lake.json"
BACKUP = "backup.json"
"""The list of the files of a backup, written last. Nothing is written to a lake that has it."""
UNFINISHED = "unfinished"
"""Key in the marker of a lake that is being copied, with the command that copies it."""
_DECODED = re.compile(r"\\|%[0-9a-fA-F]{2}")


def find_format(files: Files, tables: Iterable[str]) -> int | None:
    """Return the format of the lake at `files`, whose tables have the paths `tables`; None if there is no lake yet.

    Raise LakeFormat for a lake of a newer format, and LakeUnusable for a place that cannot hold a lake.
    """
    _require_folder(files.uri)
    found = read_format(files)
    if found is None and any(map(is_table, tables)):
        found = read_format(files) or 1  # the marker precedes the first table, so read it again
    if found is not None:
        require_readable(files, found)
    return found


def _require_folder(uri: str) -> None:
    if "://" in uri:
        return
    if _DECODED.search(uri):
        raise LakeUnusable(
            f"the path {uri} contains a backslash or a percent sign with two digits, which Delta would read as other "
            "characters: give another folder with --lake."
        )
    if Path(uri).is_file():
        raise LakeUnusable(f"{uri} is a file, but a lake is a folder: give a folder with --lake.")


def read_format(files: Files) -> int | None:
    """Return the format of the lake at `files`; None without a marker: a lake of format 1, or no lake."""
    try:
        text = files.read(MARKER)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        stored = json.loads(text)
        found, unfinished = stored["format"], stored.get(UNFINISHED)
        if type(found) is not int or found < 1:
            raise ValueError(found)
    except (ValueError, KeyError, TypeError) as error:
        raise DataCorrupt(
            f"{files.uri}/{MARKER} is damaged. It holds the format version of the lake, such as "
            f'{{"format": {FORMAT}}}. '
            "Restore it from a backup of the lake."
        ) from error
    if unfinished:
        raise LakeUnusable(
            f"{files.uri} is not a whole lake: `sidmill {unfinished}` did not end. Delete it and run the command again."
        )
    return found


def write_format(files: Files, unfinished: str = "") -> None:
    """Mark the lake with this program's format; as unusable while a command that copies a lake is `unfinished`."""
    marker = {"format": FORMAT, **({UNFINISHED: unfinished} if unfinished else {})}
    files.write(MARKER, json.dumps(marker).encode() + b"\n")


def require_readable(files: Files, found: int) -> None:
    """Raise LakeFormat for a lake of a newer format."""
    if found > FORMAT:
        raise LakeFormat(
            f"the lake {files.uri} has format {found}, but this sidmill reads only formats up to {FORMAT}: install a "
            "newer sidmill."
        )


def require_writable(files: Files, found: int) -> None:
    """Raise LakeFormat for a lake of another format, and LakeUnusable for a backup."""
    require_readable(files, found)
    if files.info([BACKUP]) != [None]:
        raise LakeUnusable(
            f"{files.uri} is a backup, which could not be restored after a change: make a lake of it with "
            f"`sidmill lake restore {files.uri} --lake PLACE`."
        )
    if found < OLDEST_WRITABLE:
        raise LakeFormat(
            f"the lake {files.uri} has the old format {found}, and this sidmill writes format {FORMAT}. Run "
            f"`sidmill lake migrate --lake {files.uri}`, which changes the lake in place and keeps releases and SIDs."
        )
