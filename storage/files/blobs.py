"""Content-addressed files beside the tables: item images, codebooks, tries, model weights.

A blob is named by the sha256 of its bytes: writing twice changes nothing, and reading verifies.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import BlobCorrupt, LakeNotFound
from storage.files.footers import stored_footer_hash
from storage.files.store import Files, sha256


class Blobs:
    """The blobs under one URI."""

    def __init__(self, uri: str) -> None:
        self.files = Files(uri)

    @property
    def uri(self) -> str:
        return self.files.uri

    @staticmethod
    def _key(digest: str) -> str:
        """Return the path of a blob below the URI."""
        return f"{digest[:2]}/{digest}"

    def location(self, digest: str) -> str:
        """Return the path or URI of the blob, for people and for the manifest."""
        return f"{self.uri}/{self._key(digest)}"

    def put(self, data: bytes) -> str:
        """Store `data` and return its sha256. A stored blob whose bytes were changed is replaced.

        A blob that is there counts as written now: `lake gc` removes old ones that nothing names.
        """
        digest = sha256(data)
        key = self._key(digest)
        try:
            whole = self.files.hash(key) == digest
        except FileNotFoundError:
            whole = False
        if whole:
            self.files.refresh(key, data)
        else:
            self.files.write(key, data)
        return digest

    def get(self, digest: str) -> bytes:
        """Return the bytes, verified against their name; raise LakeNotFound or BlobCorrupt."""
        try:
            data = self.files.read(self._key(digest))
        except FileNotFoundError as error:
            raise self._missing(digest) from error
        self._require(digest, sha256(data))
        return data

    def check(self, digest: str) -> None:
        """Raise LakeNotFound or BlobCorrupt unless the blob exists and has the hash in its name."""
        try:
            found = self.files.hash(self._key(digest))
        except FileNotFoundError as error:
            raise self._missing(digest) from error
        self._require(digest, found)

    def size(self, digest: str) -> int:
        """Return the bytes of the blob; raise LakeNotFound."""
        (found,) = self.files.info([self._key(digest)])
        if found is None:
            raise self._missing(digest)
        return found[0]

    @contextmanager
    def open_parquet(self, digest: str, footer: str) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file whose footer has the hash `footer`, to read a part of it.

        Pages are checked as they are read. Raise LakeNotFound or BlobCorrupt.
        """
        key = self._key(digest)
        if stored_footer_hash(self.files, key, self.size(digest)) != footer:
            raise self._corrupt(digest, "its footer was changed")
        with self.files.filesystem.open_input_file(key) as stream:
            try:
                yield pq.ParquetFile(stream, page_checksum_verification=True)
            except (OSError, pa.ArrowException) as error:
                raise self._corrupt(digest, str(error)) from error

    def local_path(self, digest: str, cache: Path | None = None) -> Path:
        """Return a verified local file of the blob, for memory-mapping; a remote blob is copied once into `cache`."""
        path = self.files.local_path(self._key(digest))
        if path is not None:
            self.check(digest)
            return path
        data = self.get(digest)
        target = (cache or _cache()) / digest
        if not (target.exists() and sha256(target.read_bytes()) == digest):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{digest}.{os.getpid()}")
            partial.write_bytes(data)
            os.replace(partial, target)
        return target

    def delete(self, digest: str) -> None:
        """Delete a blob that nothing names, and the copy of it that `local_path` made on this machine."""
        self.files.delete(self._key(digest))
        (_cache() / digest).unlink(missing_ok=True)

    def _missing(self, digest: str) -> LakeNotFound:
        return LakeNotFound(
            f"the blob {digest} is missing at {self.location(digest)}. Restore it from a backup of the lake, or "
            "publish a release that does not pin it."
        )

    def _require(self, digest: str, found: str) -> None:
        if found != digest:
            raise self._corrupt(digest, f"its bytes now have the hash {found}")

    def _corrupt(self, digest: str, why: str) -> BlobCorrupt:
        return BlobCorrupt(
            f"the blob {self.location(digest)} is damaged: {why}. "
            "Restore it from a backup of the lake, or roll back to a release that does not pin it."
        )


def _cache() -> Path:
    return Path(tempfile.gettempdir()) / "sidmill-blobs"
