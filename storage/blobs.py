"""Content-addressed files beside the tables: item images, codebooks, tries, model weights.

A blob is named by the sha256 of its bytes, so writing twice changes nothing and reading verifies.
"""

import hashlib
import os
import secrets
import tempfile
from pathlib import Path

import pyarrow.fs as pafs

from storage.errors import BlobCorrupt, LakeNotFound


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Blobs:
    """The blobs under one URI; a remote store takes its settings from the environment, as its tables do."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._local = Path(uri) if "://" not in uri else None

    def _remote(self) -> pafs.FileSystem:
        filesystem, path = pafs.FileSystem.from_uri(self.uri)
        return pafs.SubTreeFileSystem(path, filesystem)

    @staticmethod
    def _key(digest: str) -> str:
        return f"{digest[:2]}/{digest}"

    def location(self, digest: str) -> str:
        """Path or URI of the blob, for people and for the manifest."""
        return f"{self.uri}/{self._key(digest)}"

    def put(self, data: bytes) -> str:
        """Store `data`, return its sha256. Atomic on local disks: the name appears with the whole content."""
        digest = sha256(data)
        if self._local is None:
            with self._remote().open_output_stream(self._key(digest)) as stream:
                stream.write(data)
            return digest
        path = self._local / self._key(digest)
        if path.exists():
            return digest
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".writing-{secrets.token_hex(8)}"
        try:
            # The umask decides who may read it, as for tables; `mkstemp` would leave it to its writer alone.
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)  # of a full disk it would hold what the next try needs
            raise
        os.replace(temporary, path)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes, verified against their name."""
        try:
            if self._local is not None:
                data = (self._local / self._key(digest)).read_bytes()
            else:
                with self._remote().open_input_stream(self._key(digest)) as stream:
                    data = stream.read()
        except FileNotFoundError as error:
            raise LakeNotFound(
                f"blob {digest} is missing at {self.location(digest)}; restore it from a backup of the lake "
                "or publish a release that does not pin it."
            ) from error
        if sha256(data) != digest:
            raise BlobCorrupt(
                f"blob {self.location(digest)} has the hash {sha256(data)}: its bytes were changed. "
                "Restore it from a backup or roll back to a release that does not pin it."
            )
        return data

    def local_path(self, digest: str, cache: Path | None = None) -> Path:
        """A verified local file of the blob, for memory-mapping; a remote blob is copied once into `cache`."""
        data = self.get(digest)
        if self._local is not None:
            return self._local / self._key(digest)
        target = (cache or Path(tempfile.gettempdir()) / "sidmill-blobs") / digest
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{digest}.{os.getpid()}")
            partial.write_bytes(data)
            os.replace(partial, target)
        return target
