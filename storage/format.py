"""The format version of a lake: a file `lake.json` beside the tables, written before anything else.

Format 1 has no such file. Format 2 names data files by their hashes, keeps every log entry, and has the table
`pointers` from the start. A program refuses a lake of a newer format, and writes only to lakes of its own format.
"""

import json

from storage.errors import DataCorrupt, LakeFormat
from storage.files.store import Files

FORMAT = 2
MARKER = "lake.json"


def read_format(files: Files) -> int | None:
    """Return the format of the lake at `files`; None without a marker: a lake of format 1, or no lake."""
    try:
        text = files.read(MARKER)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return int(json.loads(text)["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataCorrupt(
            f"{files.uri}/{MARKER} is damaged. It holds the format version of the lake, such as "
            f'{{"format": {FORMAT}}}. '
            "Restore it from a backup of the lake."
        ) from error


def write_format(files: Files) -> None:
    """Mark the lake with this program's format."""
    files.write(MARKER, json.dumps({"format": FORMAT}).encode() + b"\n")


def require_readable(files: Files, found: int) -> None:
    """Raise LakeFormat for a lake of a newer format."""
    if found > FORMAT:
        raise LakeFormat(
            f"the lake {files.uri} has format {found}, but this sidmill reads only formats up to {FORMAT}: install a "
            "newer sidmill."
        )


def require_writable(files: Files, found: int) -> None:
    """Raise LakeFormat for a lake of another format."""
    require_readable(files, found)
    if found < FORMAT:
        raise LakeFormat(
            f"the lake {files.uri} has the old format {found}, and this sidmill writes format {FORMAT}. Run "
            f"`sidmill lake migrate --lake {files.uri}`, which changes the lake in place and keeps releases and SIDs."
        )
