"""Files under one URI, on a local disk or in an object store: written whole or not at all, hashed, listed."""

import errno
import hashlib
import os
import secrets
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from storage.errors import LakeUnusable

WRITING = ".writing-"
"""Starts the name of a file that is not whole yet."""
BLOCK = 1 << 20
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


def sha256(data: bytes) -> str:
    """Hash of some bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


class Files:
    """The files below `uri`; an object store takes its settings from the environment, as Delta tables do."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._local = Path(uri) if "://" not in uri else None

    @property
    def filesystem(self) -> pafs.FileSystem:
        """An Arrow file system whose root is `uri`."""
        if self._local is not None:
            return pafs.SubTreeFileSystem(str(self._local), pafs.LocalFileSystem())
        try:
            filesystem, path = pafs.FileSystem.from_uri(self.uri)
        except pa.ArrowInvalid as error:
            why = f"{self.uri} is no place for a lake ({error}): name a folder, or one in s3://, gs:// or abfs://."
            raise LakeUnusable(why) from error
        return pafs.SubTreeFileSystem(path, filesystem)

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a file; on a local disk its name appears once all of it is on the disk."""
        if self._local is None:
            with self.filesystem.open_output_stream(name) as stream:
                stream.write(data)
            return
        path = self._local / name
        try:
            self._write(path, data)
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
            why = f"{path.parent} may not be written ({error.strerror}); runs write to their lake."
            raise LakeUnusable(why) from error

    def _write(self, path: Path, data: bytes | pa.Buffer) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{WRITING}{secrets.token_hex(8)}"
        # 0o666 less the umask, as any other file of the lake: mkstemp would hide the file from other readers.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink()  # on a full disk it would hold the space that the next try needs
            raise

    def read(self, name: str) -> bytes:
        """All bytes of a file; raises FileNotFoundError."""
        if self._local is not None:
            return (self._local / name).read_bytes()
        with self.filesystem.open_input_stream(name) as stream:
            data: bytes = stream.read()
        return data

    def tail(self, name: str, size: int) -> bytes:
        """The last `size` bytes of a file; raises FileNotFoundError."""
        with self.filesystem.open_input_file(name) as stream:
            stream.seek(max(0, stream.size() - size))
            data: bytes = stream.read(size)
        return data

    def hash(self, name: str) -> str:
        """sha256 of a file, read in blocks; raises FileNotFoundError."""
        digest = hashlib.sha256()
        with self.filesystem.open_input_stream(name) as stream:
            while block := stream.read_buffer(BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def info(self, names: list[str]) -> list[tuple[int, int] | None]:
        """(size in bytes, time of change in ns) of each file, None for one that is missing."""
        found = self.filesystem.get_file_info(names)
        return [(each.size, each.mtime_ns or 0) if each.is_file else None for each in found]

    def delete(self, name: str) -> None:
        """Delete a file that nobody refers to."""
        self.filesystem.delete_file(name)

    def local_path(self, name: str) -> Path | None:
        """The path of a file on a local disk; None in an object store."""
        return None if self._local is None else self._local / name
