"""Source files: discovery, and naming by content."""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from infra.addresses import SETTINGS, refuse_parameters
from pipelines.sources.folders import SUFFIXES, Found, folder_columns, local_entries, refuse_part_of_table, sorted_out
from pipelines.sources.row import SourceError


@dataclass(frozen=True)
class Source:
    """One file at `uri`; `name` is its file name and content hash, so that moving it changes nothing.

    `columns` are the wanted values of its folder names (`event_type=buy`). They are part of its content: `sha256` is
    `bytes_sha256` if there are none.
    """

    uri: str
    path: str
    filesystem: pafs.FileSystem
    sha256: str
    bytes_sha256: str = ""
    columns: tuple[tuple[str, str | None], ...] = ()

    @property
    def name(self) -> str:
        return self.named(self.path)

    @property
    def file(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        return "." + self.path.lower().rsplit(".", 1)[-1]

    @property
    def mark(self) -> str:
        """Part of the name that depends on the content."""
        return f"@{self.sha256[:12]}"

    def named(self, path: str) -> str:
        """Return the name of this content at another path."""
        return path.rsplit("/", 1)[-1] + self.mark

    @property
    def folder(self) -> str:
        return self.path.rsplit("/", 1)[0]


def find_sources(uri: str, from_folders: Collection[str] = ()) -> list[Source]:
    """Return the file at `uri`, or all readable files below a folder, sorted by path.

    `from_folders` are the columns that folder names may give.
    """
    filesystem, _, found = find_files(uri)
    return sources_of(uri, filesystem, found, from_folders)


def sources_of(uri: str, filesystem: pafs.FileSystem, found: Found, from_folders: Collection[str] = ()) -> list[Source]:
    """Return the files that were found at `uri`, each read once for its hash."""
    scheme = uri.split("://", 1)[0] + "://" if "://" in uri else ""
    return [_source(scheme, filesystem, path, from_folders) for path in found.read]


def _source(scheme: str, filesystem: pafs.FileSystem, path: str, from_folders: Collection[str]) -> Source:
    columns = tuple(each for each in folder_columns(path) if each[0] in from_folders)
    digest = _digest(filesystem, path)
    named = hashlib.sha256(f"{digest}\0{columns}".encode()).hexdigest() if columns else digest
    return Source(scheme + path, path, filesystem, named, digest, columns)


def find_files(uri: str) -> tuple[pafs.FileSystem, str, Found]:
    """Return the file system, path and files at `uri`, unread; raise SourceError if it is not usable."""
    refuse_parameters(uri, "a source", SETTINGS)
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri) if "://" in uri else (pafs.LocalFileSystem(), _absolute(uri))
        info = filesystem.get_file_info(path)
    except pa.ArrowInvalid as error:
        raise SourceError(
            f"{uri} cannot be read from ({error}): name a file or a folder on this machine or in an object store "
            "(s3://, gs://, abfs://); download what lies elsewhere."
        ) from error
    except OSError as error:
        raise SourceError(f"cannot reach {uri}: {error}") from error
    if info.type == pafs.FileType.NotFound:
        raise SourceError(f"no file or folder at {uri}; give a {', '.join(SUFFIXES)} file or a folder of them.")
    refuse_part_of_table(path, partial(_names_in, filesystem))
    if info.type != pafs.FileType.Directory:
        if not path.lower().endswith(SUFFIXES):
            raise SourceError(f"{uri} is not a {', '.join(SUFFIXES)} file; convert it to one of these.")
        if not info.is_file:
            raise SourceError(f"{uri} is no plain file, which can be read twice: write it to one first.")
        return filesystem, path, Found((path,), ())
    try:
        entries = list(_entries(filesystem, path))
    except OSError as error:
        raise SourceError(f"the folder {uri} cannot be listed: {error}") from error
    found = sorted_out(path, *([name for name, plain in entries if plain is wanted] for wanted in (True, False)))
    if not found.read:
        warning = found.warning(path)
        raise SourceError(
            f"the folder {uri} holds no {', '.join(SUFFIXES)} file" + (f"; {warning}." if warning else ".")
        )
    return filesystem, path, found


def _entries(filesystem: pafs.FileSystem, folder: str) -> Iterable[tuple[str, bool]]:
    """List all non-folders below a folder, and whether each is a file."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        return local_entries(folder)
    listed = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
    return ((entry.path, entry.is_file) for entry in listed if entry.type != pafs.FileType.Directory)


def _names_in(filesystem: pafs.FileSystem, folder: str) -> list[str]:
    try:
        listed = filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    except OSError:  # folders above the named one may be unreadable
        return []
    return [entry.base_name for entry in listed]


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def _digest(filesystem: pafs.FileSystem, path: str) -> str:
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
