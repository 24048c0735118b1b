"""Files under one URI, on a local disk or in an object store: written as a whole, hashed, listed."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from storage.errors import LakeUnusable
from storage.files.disk import writing

WRITING = ".writing-"
"""Prefix of the name of an incomplete file."""
BLOCK = 1 << 20
"""Bytes that are read of a file at a time to hash it."""


def sha256(data: bytes) -> str:
    """Return the sha256 of some bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class ListedFile:
    """A file that a listing found: its path below the listed URI, its bytes, and when it was last written, in ns."""

    path: str
    size: int
    changed_ns: int

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rsplit("/", 1)[-1]


class Files:
    """The files below `uri`; object store settings come from the environment, as for Delta tables."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._local = Path(uri) if "://" not in uri else None

    @cached_property
    def filesystem(self) -> pafs.FileSystem:
        """Arrow file system whose root is `uri`."""
        if self._local is not None:
            return pafs.SubTreeFileSystem(str(self._local), pafs.LocalFileSystem())
        try:
            filesystem, path = pafs.FileSystem.from_uri(self.uri)
        except pa.ArrowInvalid as error:
            why = (
                f"{self.uri} cannot hold a lake ({error}): give a local folder, or a folder in s3://, gs:// or abfs://."
            )
            raise LakeUnusable(why) from error
        return pafs.SubTreeFileSystem(path, filesystem)

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a file; on a local disk its name appears once all of it is on the disk."""
        if self._local is None:
            with self.filesystem.open_output_stream(name) as stream:
                stream.write(data)
            return
        path = self._local / name
        with writing(path.parent):
            self._write(path, data)

    def _write(self, path: Path, data: bytes | pa.Buffer) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{WRITING}{secrets.token_hex(8)}"
        # 0o666 minus the umask, like all files of the lake: mkstemp would hide the file from other users.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            # On a full disk it would occupy the space that the next try needs. A signal may come once it has its name.
            temporary.unlink(missing_ok=True)
            raise

    def read(self, name: str) -> bytes:
        """Return all bytes of a file; raise FileNotFoundError."""
        if self._local is not None:
            with _a_folder_is_no_file(self._local / name):
                return (self._local / name).read_bytes()
        with self.filesystem.open_input_stream(name) as stream:
            data: bytes = stream.read()
        return data

    def tail(self, name: str, size: int) -> bytes:
        """Return the last `size` bytes of a file; raise FileNotFoundError."""
        with self.filesystem.open_input_file(name) as stream:
            stream.seek(max(0, stream.size() - size))
            data: bytes = stream.read(size)
        return data

    def hash(self, name: str) -> str:
        """Return the sha256 of a file, read in blocks; raise FileNotFoundError."""
        digest = hashlib.sha256()
        with _a_folder_is_no_file(self.local_path(name)), self.filesystem.open_input_stream(name) as stream:
            while block := stream.read_buffer(BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def info(self, names: list[str]) -> list[tuple[int, int] | None]:
        """Return (size in bytes, modification time in ns) of each file, None for one that is missing."""
        found = self.filesystem.get_file_info(names)
        return [(each.size, each.mtime_ns or 0) if each.is_file else None for each in found]

    def found(self, folder: str = "", recursive: bool = True) -> list[ListedFile]:
        """Return all files below a folder, at any depth or directly in it; none if it does not exist."""
        selector = pafs.FileSelector(folder, allow_not_found=True, recursive=recursive)
        listed = self.filesystem.get_file_info(selector)
        return [ListedFile(each.path, each.size, each.mtime_ns or 0) for each in listed if each.is_file]

    def folders(self, folder: str = "") -> list[str]:
        """Return the paths of the folders directly in a folder; none if it does not exist."""
        listed = self.filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        return sorted(each.path for each in listed if each.type is pafs.FileType.Directory)

    def refresh(self, name: str, data: bytes) -> None:
        """Give a file that holds `data` the present time, so that it counts as written now."""
        if self._local is None:
            self.write(name, data)
            return
        try:
            os.utime(self._local / name)
        except (FileNotFoundError, PermissionError):  # deleted since it was read, or of another user
            self.write(name, data)

    def delete(self, name: str) -> None:
        """Delete a file that is not referenced."""
        self.filesystem.delete_file(name)

    def delete_empty(self, folder: str) -> None:
        """Delete a folder, with its folders, if there is no file in them."""
        if not self.found(folder) and self.filesystem.get_file_info(folder).type is pafs.FileType.Directory:
            self.filesystem.delete_dir(folder)

    def local_path(self, name: str) -> Path | None:
        """Return the path of a file on a local disk; None in an object store."""
        return None if self._local is None else self._local / name


@contextmanager
def _a_folder_is_no_file(path: Path | None) -> Iterator[None]:
    """Have a folder in the place of a file raise FileNotFoundError, as a missing file does."""
    try:
        yield
    except OSError as error:
        if path is None or not path.is_dir():
            raise
        raise FileNotFoundError(f"{path} is a folder") from error
