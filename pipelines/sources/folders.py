"""Conventions of folders: hidden files, tables that must not be read file by file, and values in folder names."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from pipelines.sources.file import COMPRESSIONS, JSON
from pipelines.sources.row import SourceError

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".mpo", ".heic")
"""Suffixes of pictures. They lie below the folder of their catalogue and are not reported as files left out."""
RENAMED = {".sql": "to run it as a query, put sql: before its name"}
"""Suffixes of files that are read under another name, and which name."""
ICEBERG = (".metadata.json", ".metadata.json.gz", "version-hint.text")
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
# Most file names in a warning; those of hidden files stand last.
SHOWN = 10


@dataclass(frozen=True)
class Entries:
    """Files of a folder that are read, and those that are left out, both as full paths in order."""

    read: tuple[str, ...]
    left_out: tuple[str, ...]

    def warning(self, folder: str) -> str:
        """Return one line that names the files left out; empty if there are none."""
        if not self.left_out:
            return ""
        names = [path.removeprefix(folder.rstrip("/") + "/") for path in self.left_out]
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        files = "file is" if len(names) == 1 else "files are"
        return (
            f"{len(names):,} {files} not read: {', '.join(names[:SHOWN])}{more} (read are {', '.join(SUFFIXES)}, "
            "text also as .gz, .bz2 or .zst; no pipes or links to nothing, and not those whose name or folder begins "
            "with . or _)" + self._of_json()
        )

    def _of_json(self) -> str:
        """Return how files that may be JSON lines are read, if there are any."""
        found = next((path for path in self.left_out if is_readable(path, (JSON,))), None)
        named = f". A {JSON} file with one object a line is read where it is named: FOLDER/*{JSON}"
        return f"{named}{found[found.lower().rindex(JSON) + len(JSON) :]}" if found else ""


def local_entries(folder: str, above: frozenset[str] = frozenset()) -> Iterator[tuple[str, bool]]:
    """Yield the non-folder paths below a folder, and whether each is a plain file with a UTF-8 name.

    Links are followed, except those that lead back to a folder above them.
    """
    chain = above | {os.path.realpath(folder)}
    for entry in os.scandir(folder):
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            is_folder = is_file = False  # links that lead to each other, and so to nothing
        if not is_folder:
            yield entry.path, is_file and is_utf8(entry.path)
        elif os.path.realpath(entry.path) not in chain:
            yield from local_entries(entry.path, chain)


def is_utf8(path: str) -> bool:
    """Return whether a path is a text: bytes of a name that are not UTF-8 are single surrogates in it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def sorted_out(
    folder: str, paths: Iterable[str], unreadable: Iterable[str] = (), suffixes: tuple[str, ...] = SUFFIXES
) -> Entries:
    """Select the files below a folder to read; raise SourceError for a Delta Lake, Iceberg or Hudi table.

    `unreadable` are paths there that are not files: broken links, pipes. `suffixes` are those of files that are read.
    """
    below = sorted(paths)
    inside = {path: path.removeprefix(folder.rstrip("/") + "/").split("/") for path in below}
    for parts in inside.values():
        _refuse_tables(folder, parts)
    hidden = {path for path in below if any(_is_hidden(part) for part in inside[path])}
    ours = {path for path in below if is_readable(path, suffixes)}
    pictures = {path for path in below if path.lower().endswith(PICTURES)}
    left_out = (
        (ours & hidden) | (set(below) - ours - hidden - pictures) | {path for path in unreadable if is_readable(path)}
    )
    first = sorted(left_out, key=lambda path: (not _looks_like_data(path), path in hidden, path))
    return Entries(tuple(sorted(ours - hidden)), tuple(first))


def _looks_like_data(path: str) -> bool:
    """Return whether a file that is not read may have rows by its name, such as `log.csv.tmp`."""
    name = path.lower()
    return any(each in name for each in (*SUFFIXES, ".json", ".xls")) and not name.endswith(".crc")


def is_readable(path: str, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Return whether a path has a suffix that is read, for text also below that of a compression."""
    name = path.lower()
    compressed = tuple(f"{text}{each}" for text in suffixes if text != ".parquet" for each in COMPRESSIONS)
    return name.endswith(suffixes) or name.endswith(compressed)


def advice(path: str) -> str:
    """Return the remedy for a file that is not read because of its suffix."""
    name = path.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return next((told for suffix, told in RENAMED.items() if name.endswith(suffix)), "convert it to one of these")


def _is_hidden(name: str) -> bool:
    """Apply the rule of Spark and Hive: a leading dot or underscore hides a name, except `_` of a partition."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _refuse_tables(folder: str, parts: list[str]) -> None:
    """Refuse a path in the log of a table. Data files alone do not say which of their rows are current."""
    place = "/".join([folder.rstrip("/"), *parts])
    if "_delta_log" in parts[:-1]:
        table = place.split("/_delta_log/", 1)[0]
        raise SourceError(
            f"{table} is a Delta table: its files are of several versions, and some are deleted. Name the table itself "
            f"({table}), or a version of it ({table}@v0)."
        )
    if len(parts) > 1 and parts[-2] == "metadata" and parts[-1].endswith(ICEBERG):
        table = place.rsplit("/metadata/", 1)[0]
        raise SourceError(
            f"{table} is an Iceberg table: its files are of several versions, and some are deleted. Name it by its "
            "catalog (iceberg:CATALOG.NAMESPACE.TABLE), or name the metadata file that its catalog says is current (in "
            f"{table}/metadata)."
        )
    if ".hoodie" in parts[:-1]:
        table = place.split("/.hoodie/", 1)[0]
        raise SourceError(
            f"{table} is a Hudi table: its files are of several versions, and some are deleted. Export its current "
            "rows to a Parquet file, for example with Spark, and name that."
        )


def refuse_part_of_table(path: str, names_in: Callable[[str], list[str]]) -> None:
    """Refuse a file or a folder inside a table; `names_in` lists the names in a folder, none if it does not exist."""
    place = path
    while "/" in place.strip("/"):
        place = place.rsplit("/", 1)[0]
        for log in ("_delta_log", ".hoodie", "metadata"):
            for name in names_in(f"{place}/{log}"):
                _refuse_tables(place, [log, name])


def folder_columns(path: str) -> tuple[tuple[str, str | None], ...]:
    """Return (name, value) of the folders `name=value` right above a file, outermost first; Hive's null is None."""
    found: list[tuple[str, str | None]] = []
    for part in reversed(path.split("/")[:-1]):
        name, separator, value = part.partition("=")
        if not (separator and name):
            break
        found.append((unquote(name), None if value == NULL_PARTITION else unquote(value, errors="surrogateescape")))
    return tuple(reversed(found))
