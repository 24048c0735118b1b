"""Place of one file."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from pipelines.sources.row import SourceError

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""Suffixes of compressed text, which is decompressed while it is read, and the names of the codecs."""
MAGIC = {"gzip": b"\x1f\x8b", "bz2": b"BZh", "zstd": b"\x28\xb5\x2f\xfd"}
"""First bytes of compressed text by codec."""
ATOMIC = (".item", ".inter")
"""Suffixes of RecBole's atomic files. They are read where they are named: a folder of them has catalogue and log."""
CELLS = (".dat", ".data", ".txt", ".tab", ".tbl", ".psv")
"""Suffixes of texts that are read as cells where they are named and the recipe declares what separates their cells."""
JSON = ".json"
"""Suffix of texts that are read as JSON lines where they are named: in a folder many such files are no rows."""
NAMED = (*ATOMIC, *CELLS, JSON)
"""Suffixes of files that are read where they are named, and not below a folder."""
TABBED = (".tsv", *ATOMIC)
"""Suffixes of texts whose cells are separated by tabs."""
_DECOMPRESSION = re.compile(r"compressed stream|inflate|decompress", re.IGNORECASE)
"""In messages of Arrow on content that cannot be decompressed."""


@dataclass(frozen=True)
class File:
    """A file on this machine or in an object store."""

    path: str
    filesystem: pafs.FileSystem

    @property
    def file(self) -> str:
        """Last part of the path, as messages name it."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        """Suffix that tells the format, without that of a compression."""
        path = self.path.lower()
        for compression in COMPRESSIONS:
            path = path.removesuffix(compression)
        return "." + path.rsplit(".", 1)[-1]

    @property
    def is_table_text(self) -> bool:
        """True for a text of cells between delimiters, False for JSON and Parquet."""
        return self.suffix in (".csv", *TABBED, *CELLS)

    @property
    def has_columns(self) -> bool:
        """True for a file whose rows all have the same columns, False for JSON."""
        return self.is_table_text or self.suffix == ".parquet"

    def open_stream(self) -> pa.NativeFile:
        """Open the content, decompressed. Raise OSError."""
        return self.filesystem.open_input_stream(self.path, compression=self._compression())

    def head(self, size: int) -> bytes:
        """Return the first bytes of the content. Raise as `reading` does."""
        with self.reading(), self.open_stream() as stream:
            data: bytes = stream.read(size)
        return data

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise SourceError where the content of a file breaks off.

        Other errors are those of the machine or of a store, which may pass; they are raised as they are.
        """
        try:
            yield
        except OSError as error:
            if error.errno is None and self._is_of_content(error):
                raise self.broken_off(error) from error
            raise

    def is_damaged(self, error: OSError) -> bool:
        """Return whether the file is compressed, by name and first bytes, and an error is that of its content."""
        found = self._compression()
        return found is not None and self._is_of_content(error) and self._raw_head().startswith(MAGIC[found])

    def _is_of_content(self, error: OSError) -> bool:
        """Return whether an error of Arrow tells of what a file holds, and not of the store that holds it."""
        local = isinstance(self.filesystem, pafs.LocalFileSystem)
        told = str(error)
        for name in self.path.split("/"):  # an error of a store may quote them
            told = told.replace(name, "") if name else told
        return local or _DECOMPRESSION.search(told) is not None

    def broken_off(self, error: OSError) -> SourceError:
        """Return the error to raise for a file that cannot be read to its end."""
        if Path(self.path).exists() and not os.access(self.path, os.R_OK):
            return SourceError(f"{self.path} may not be read by the user of this command: change its permissions.")
        if (found := self._compression()) and (head := self._raw_head()) and not head.startswith(MAGIC[found]):
            suffix = next(each for each, codec in COMPRESSIONS.items() if codec == found)
            return SourceError(
                f"{self.path} is not compressed with {found} by its first bytes: take {suffix} off its name."
            )
        return SourceError(f"{self.path} cannot be read to its end: {error}. Copy or export it again.")

    def _compression(self) -> str | None:
        return next((codec for suffix, codec in COMPRESSIONS.items() if self.path.lower().endswith(suffix)), None)

    def _raw_head(self) -> bytes:
        """Return the first bytes as they are stored; none if they cannot be read."""
        try:
            with self.filesystem.open_input_stream(self.path, compression=None) as stream:
                data: bytes = stream.read(8)
        except OSError:
            return b""
        return data

    @property
    def folder(self) -> str:
        return self.path.rsplit("/", 1)[0]
