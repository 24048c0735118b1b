"""Diagnosis of a path of a catalogue whose picture cannot be read: the fault, and the spelling that would do."""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pyarrow.fs as pafs

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
"""Beginning of a path with a drive or a host of Windows."""
_SEPARATORS = ",", ";", "|", "\n", None
"""Signs between several paths in one text; None is any blank."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?![\\/]{2})")
"""A scheme without the slashes of an address, such as `cid:` and `file:`."""


def why_unreadable(filesystem: pafs.FileSystem, folder: str, reference: str, error: Exception) -> str:
    """Return what is wrong with the path `reference` below `folder`, whose file could not be read."""
    local = isinstance(filesystem, pafs.LocalFileSystem)
    if local and Path(folder, reference).is_dir():
        return "it is a folder: name the pictures in it"
    if isinstance(error, PermissionError):
        return "this process may not read the file"
    if not isinstance(error, FileNotFoundError):
        return str(error)
    if local and (found := _meant(Path(folder), reference)):
        return f"there is no such file, but there is {found}"
    if _WINDOWS.match(reference):
        return "it is a path of Windows: copy the picture beside the catalogue, and write its path from there, with /"
    if scheme := _SCHEME.match(reference):
        return f"{scheme[0]} is no address of pictures: name a file beside the catalogue, or write http:// or https://"
    if reference.lower().startswith("www."):
        return "it is an address without a scheme: write https:// in front of it"
    if "\\" in reference:
        return "there is no such file, and a path is written with / and not with a backslash"
    return "there is no such file, and a path begins at the folder of the catalogue"


def _meant(folder: Path, reference: str) -> str:
    """Return the file that a path means if it is written another way, as a message says it; empty if none is there."""
    for other in dict.fromkeys(_other_spellings(reference)):
        if other != reference and _is_inside(folder, other):
            return f"{other!r}: write the path so"
    for separator in _SEPARATORS:
        parts = [part for each in reference.split(separator) if (part := each.strip())]
        if len(parts) > 1 and all(_is_inside(folder, part) for part in parts):
            listed = ", ".join(f'"{part}"' for part in parts)
            return f"a file for each part of it: write several pictures as a list, in a CSV as JSON: [{listed}]"
    return ""


def _other_spellings(reference: str) -> Iterator[str]:
    for path in (
        reference,
        unquote(reference),
        re.split("[?#]", reference)[0],
        unquote(re.split("[?#]", reference)[0]),
    ):
        slashed = path.replace("\\", "/")
        for each in (slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))):
            yield each.removeprefix("./")
            yield each.lstrip("/")


def _is_inside(folder: Path, path: str) -> bool:
    """Return whether a path names a file inside the folder, links followed."""
    try:
        real = Path(os.path.realpath(folder / path))
        return not path.startswith("/") and real.is_relative_to(os.path.realpath(folder)) and real.is_file()
    except (OSError, ValueError):
        return False
