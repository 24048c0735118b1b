"""Source files: discovery, and identity by content."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from infra.addresses import SETTINGS, refuse_parameters
from pipelines.sources.addresses import HUB, Pattern, file_system_of, has_wildcards, resolved
from pipelines.sources.file import NAMED, File
from pipelines.sources.folders import (
    SUFFIXES,
    Entries,
    advice,
    folder_columns,
    is_readable,
    local_entries,
    refuse_part_of_table,
    sorted_out,
)
from pipelines.sources.parquet_columns import row_groups
from pipelines.sources.protocol import (
    MAX_FAULTS,
    Found,
    Part,
    Record,
    RowCount,
    SourceKind,
    SourcePartition,
    Spec,
)
from pipelines.sources.reading import check_file, read_file
from pipelines.sources.row import Row, SourceError
from pipelines.sources.row_count import PIECE_ROWS, rows_of_file
from pipelines.sources.text.broken_off import BLOCK_BYTES, Break, break_of, first_bytes
from storage.reasons import Reason

Digests = Callable[[File], tuple[str, Break | None]]


PARTITION_ROWS = 1 << 18
"""Rows of a partition of a file with small row groups, at least."""
ADDRESS = "address"
"""Value of the row that stands for the rest of a text: where it lies."""


@dataclass(frozen=True)
class SourceFile(File):
    """One file at `uri`; `name` is its file name and content hash, so that moving it changes nothing.

    `columns` are the wanted values of its folder names (`event_type=buy`). They are part of its content: `sha256` is
    `bytes_sha256` if there are none. `unread_columns` are those of its folder names that are not wanted. `stamp` is its
    size and time of change before it was read for its hash. `below` is its path below the folder that was named.
    `broken` says where a compressed text breaks off; the hash is then that of the file as it is stored.
    """

    uri: str
    sha256: str
    bytes_sha256: str = ""
    columns: tuple[tuple[str, str | None], ...] = ()
    unread_columns: frozenset[str] = frozenset()
    stamp: tuple[int, int] = (0, 0)
    below: str = ""
    broken: Break | None = None

    @property
    def file(self) -> str:
        """Path below the folder that was named: the files of many partitions have one name."""
        return self.below or super().file

    @property
    def name(self) -> str:
        return named(self.path, self.sha256)

    @property
    def identities(self) -> tuple[str, ...]:
        return (self.sha256, self.bytes_sha256) if self.bytes_sha256 else (self.sha256,)

    def former_names(self, records: Iterable[Record]) -> set[str]:
        """Return the names of its current and its former places.

        Older versions identified a file with columns from folders by its bytes and address alone.
        """
        ours = [each for each in records if each.sha256 == self.sha256 or each.uri == self.uri]
        return {self.name, *(named(each.uri, each.sha256) for each in ours)}

    def open_stream(self) -> pa.NativeFile:
        """Open the content, decompressed, up to where it breaks off. Raise OSError."""
        stream = super().open_stream()
        return stream if self.broken is None else first_bytes(stream, self.broken.sound)

    def check(self, spec: Spec) -> None:
        check_file(self, spec)

    def parts(self, spec: Spec, rows: int) -> Iterator[Part]:
        number = 0
        for part in read_file(self, self.columns, spec, rows):
            yield part
            number = (part[-1].number if isinstance(part, list) else part.last) + 1
        if self.broken is not None:
            sound = {"sound_bytes": self.broken.sound, "sound_sha256": self._start_hash(self.broken.sound)}
            values = {"raw": self.file, ADDRESS: self.uri, **sound}
            yield [Row(number, values, Reason.UNREADABLE_TEXT, self.broken.told)]
        self.check_same()

    def partitions(self, spec: Spec) -> list[SourcePartition]:
        """Return row groups of Parquet, small ones together; rows of a text get their numbers one after the other."""
        if self.suffix != ".parquet":
            return []
        with self.reading(), self.filesystem.open_input_file(self.path) as stream:
            return _partitions(row_groups(stream))

    def partition_parts(self, partition: SourcePartition, spec: Spec, rows: int) -> Iterator[Part]:
        assert isinstance(partition.name, range)
        return read_file(self, self.columns, spec, rows, partition.name)

    @property
    def is_on_this_machine(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def check_same(self) -> None:
        """Raise SourceError if its content changed since it was hashed."""
        if self.bytes_sha256 and _stamp(self) != self.stamp and self._digest_now() != self.bytes_sha256:
            raise SourceError(
                f"{self.file} changed while it was read, so rows of its former content may be missing. Write a file "
                "under another name, give it its own when it is complete, and run again: what was read is not read "
                "twice."
            )

    def completes(self, broken: Mapping[str, Any]) -> bool:
        """Return whether it is whole and begins with what was read of a text that broke off at its address.

        `broken` are the values of the row that stands for the rest of that text.
        """
        size = broken.get("sound_bytes")
        if self.broken is not None or broken.get(ADDRESS) != self.uri or not size:
            return False
        return self._start_hash(size) == broken.get("sound_sha256")

    def _start_hash(self, size: int) -> str:
        """Return the hash of the first bytes of the content."""
        digest = hashlib.sha256()
        with first_bytes(super().open_stream(), size) as stream:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def _digest_now(self) -> str:
        return _digest(File(self.path, self.filesystem))[0]

    def row_count(self, spec: Spec) -> RowCount:
        """Return the rows by the metadata of Parquet, or about those of a text by the length of its first lines.

        One that breaks off is read for them, with the row that stands for the rest.
        """
        if self.broken is not None:
            return RowCount(sum(len(part) for part in self.parts(spec, PIECE_ROWS)), exact=True)
        return rows_of_file(self, spec)


def _partitions(groups: list[int]) -> list[SourcePartition]:
    """Return partitions of consecutive row groups with these numbers of rows, of PARTITION_ROWS or more but the last.

    Each process that reads one reads the footer of the file, which names all row groups.
    """
    found, first, start, rows = list[SourcePartition](), 0, 0, 0
    for stop, more in enumerate(groups, 1):
        rows += more
        if rows >= PARTITION_ROWS or (rows and stop == len(groups)):
            found.append(SourcePartition(first, rows, range(start, stop)))
            first, start, rows = first + rows, stop, 0
    return found


def named(path: str, sha256: str) -> str:
    """Return the name of a content at a path."""
    return f"{path.rsplit('/', 1)[-1]}@{sha256[:12]}"


def find_sources(uri: str, from_folders: Collection[str] = ()) -> list[SourceFile]:
    """Return the file at `uri`, or all readable files below a folder, sorted by path, each read once for its hash.

    `from_folders` are the columns that folder names may give.
    """
    filesystem, path, found = find_files(uri)
    return _sources(uri, path, filesystem, found, from_folders, _digest)


def _find(uri: str, spec: Spec, records: Iterable[Record]) -> Found:
    return _found(uri, spec, _digest)


def _look(uri: str, spec: Spec) -> Found:
    return _found(uri, spec, lambda file: ("", None))


def _found(uri: str, spec: Spec, digest: Digests) -> Found:
    filesystem, path, entries = find_files(uri)
    warning = entries.warning(path)
    found = _sources(uri, path, filesystem, entries, spec.from_folders, digest)
    return Found([*found], [f"{uri}: {warning}"] if warning else [])


def _sources(
    uri: str,
    root: str,
    filesystem: pafs.FileSystem,
    entries: Entries,
    from_folders: Collection[str],
    digest: Digests,
) -> list[SourceFile]:
    scheme = uri.split("://", 1)[0] + "://" if "://" in uri else ""
    files = (File(path, filesystem) for path in entries.read)
    found = [_source(scheme, root, file, digest, from_folders) for file in files]
    if found and all(each.broken for each in found):
        raise SourceError("\n".join(each.broken.told for each in found[:MAX_FAULTS] if each.broken))
    return found


def _source(scheme: str, root: str, file: File, digest_of: Digests, from_folders: Collection[str]) -> SourceFile:
    stamp, (digest, broken) = _stamp(file), digest_of(file)
    folder_values = folder_columns(file.path)
    columns = tuple(each for each in folder_values if each[0] in from_folders)
    sha256 = hashlib.sha256(f"{digest}\0{columns}".encode()).hexdigest() if columns else digest
    unread = frozenset(name for name, _ in folder_values) - set(from_folders)
    below = file.path.removeprefix(root).lstrip("/")
    place = file.path, file.filesystem, scheme + file.path
    return SourceFile(*place, sha256, digest, columns, unread, stamp, below, broken)


def _stamp(file: File) -> tuple[int, int]:
    """Return size and time of change of a file, zeros where it is gone."""
    info = file.filesystem.get_file_info(file.path)
    return info.size or 0, info.mtime_ns or 0


def find_files(uri: str) -> tuple[pafs.FileSystem, str, Entries]:
    """Return the file system, path and files at `uri`, unread; raise SourceError if it is not usable."""
    refuse_parameters(uri, "a source", SETTINGS)
    if not uri.strip():
        raise SourceError("the address of a source is empty: the current folder is `.`.")
    try:
        filesystem, path = file_system_of(uri) if "://" in uri else (pafs.LocalFileSystem(), resolved(uri))
        info = filesystem.get_file_info(path)
    except pa.ArrowInvalid as error:
        raise SourceError(
            f"{uri} cannot be read from ({error}): name a file or a folder on this machine, in an object store "
            "(s3://, gs://, abfs://) or on the Hugging Face hub (hf://datasets/); download what lies elsewhere."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"cannot reach {uri}: {error}") from error
    except Exception as error:
        if not uri.startswith(HUB):
            raise
        # the errors of the library by which the hub's client connects
        raise SourceError(
            f"cannot reach {uri}: {error}. Is this machine connected to the hub (HF_ENDPOINT)?"
        ) from error
    if info.type == pafs.FileType.NotFound and has_wildcards(path):
        return filesystem, Pattern(path).root, _matching(uri, filesystem, Pattern(path))
    if info.type == pafs.FileType.NotFound:
        raise SourceError(f"no file or folder at {uri}; give a {', '.join(SUFFIXES)} file or a folder of them.")
    refuse_part_of_table(path, partial(_names_in, filesystem))
    if info.type != pafs.FileType.Directory:
        if not is_readable(path, SUFFIXES + NAMED):
            raise SourceError(f"{uri} is not a {', '.join(SUFFIXES)} file; {advice(path)}.")
        if not info.is_file:
            raise SourceError(f"{uri} is not a regular file, and sources are read twice: copy it to a file first.")
        return filesystem, path, Entries((path,), ())
    found = sorted_out(path, *_listed(uri, filesystem, path))
    if not found.read:
        warning = found.warning(path)
        raise SourceError(
            f"the folder {uri} holds no {', '.join(SUFFIXES)} file" + (f"; {warning}." if warning else ".")
        )
    return filesystem, path, found


def _matching(uri: str, filesystem: pafs.FileSystem, pattern: Pattern) -> Entries:
    """Return the files that a pattern means, those of NAMED suffixes where it ends with theirs, also compressed."""
    if filesystem.get_file_info(pattern.root).type != pafs.FileType.Directory:
        raise SourceError(f"no file matches {uri}: there is no folder {pattern.root}.")
    suffixes = SUFFIXES + tuple(each for each in NAMED if is_readable(pattern.path, (each,)))
    plain, others = (pattern.among(each) for each in _listed(uri, filesystem, pattern.root))
    refuse_part_of_table(f"{pattern.root}/any", partial(_names_in, filesystem))
    found = sorted_out(pattern.root, plain, others, suffixes)
    if not found.read:
        warning = found.warning(pattern.root)
        raise SourceError(f"no {', '.join(suffixes)} file matches {uri}" + (f"; {warning}." if warning else "."))
    return found


def _listed(uri: str, filesystem: pafs.FileSystem, folder: str) -> tuple[list[str], list[str]]:
    """List the plain files below a folder, and the others: pipes, links to nothing."""
    try:
        entries = list(_entries(filesystem, folder))
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(
            f"the folder {uri} cannot be listed ({error}): check that this user may read it and all below."
        ) from error
    return [name for name, plain in entries if plain], [name for name, plain in entries if not plain]


def _entries(filesystem: pafs.FileSystem, folder: str) -> Iterable[tuple[str, bool]]:
    """List all non-folders below a folder, and whether each is a file."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        return local_entries(folder)
    listed = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
    return ((entry.path, entry.is_file) for entry in listed if entry.type != pafs.FileType.Directory)


def _names_in(filesystem: pafs.FileSystem, folder: str) -> list[str]:
    try:
        listed = filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    except (OSError, ValueError, RuntimeError):  # folders above the named one may be unreadable, or no folders
        return []
    return [entry.base_name for entry in listed]


def _digest(file: File) -> tuple[str, Break | None]:
    """Return the hash of the content; of a compressed text that breaks off that of the stored bytes, and the place."""
    digest, size = hashlib.sha256(), 0
    try:
        with file.open_stream() as stream:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
                size += len(block)
    except OSError as error:
        broken = break_of(file, size, error)
        with file.filesystem.open_input_stream(file.path, compression=None) as stream:
            digest = hashlib.sha256(b"broken off\0")
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest(), broken
    return digest.hexdigest(), None


def _check(uri: str) -> None:
    find_files(uri)


FILES = SourceKind(claims=lambda uri: True, check=_check, find=_find, look=_look, claims_rest=True)
"""Files and folders of files."""
