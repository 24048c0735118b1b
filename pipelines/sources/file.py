"""Place of one file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from pipelines.sources.row import SourceError

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""Suffixes of compressed text, which is decompressed while it is read, and the names of the codecs."""
ATOMIC = (".item", ".inter")
"""Suffixes of RecBole's atomic files. They are read where they are named: a folder of them has catalogue and log."""
TABBED = (".tsv", *ATOMIC)
"""Suffixes of texts whose cells are separated by tabs."""


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
        return self.suffix in (".csv", *TABBED)

    def open_stream(self) -> pa.NativeFile:
        """Open the content, decompressed. Raise OSError."""
        codec = next((name for suffix, name in COMPRESSIONS.items() if self.path.lower().endswith(suffix)), None)
        return self.filesystem.open_input_stream(self.path, compression=codec)

    def head(self, size: int) -> bytes:
        """Return the first bytes of the content. Raise as `reading` does."""
        with self.reading(), self.open_stream() as stream:
            data: bytes = stream.read(size)
        return data

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise SourceError where the content of a local file breaks off.

        Other errors are those of the machine or of a store, which may pass; they are raised as they are.
        """
        try:
            yield
        except OSError as error:
            if error.errno is None and isinstance(self.filesystem, pafs.LocalFileSystem):  # Arrow's, of what it holds
                raise self.broken_off(error) from error
            raise

    def broken_off(self, error: OSError) -> SourceError:
        """Return the error to raise for a file that cannot be read to its end."""
        if Path(self.path).exists() and not os.access(self.path, os.R_OK):
            return SourceError(f"{self.path} may not be read by the user of this command: change its permissions.")
        return SourceError(f"{self.path} cannot be read to its end: {error}. Copy or export it again.")

    @property
    def folder(self) -> str:
        return self.path.rsplit("/", 1)[0]
