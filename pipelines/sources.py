"""Source files: find them, name them by content, and read their rows without ever failing on a bad one.

JSONL, CSV (comma) and TSV are read line by line, so that one bad line costs one row; Parquet is read by row group.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_CELL_LIMIT = 1 << 28


class SourceError(ValueError):
    """A source is missing, or of a kind we do not read."""


@dataclass(frozen=True)
class Source:
    """One file at `uri`; `name` is its file name and content hash, so that moving it changes nothing."""

    uri: str
    path: str
    filesystem: pafs.FileSystem
    sha256: str

    @property
    def name(self) -> str:
        return self.named(self.path)

    @property
    def file(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def mark(self) -> str:
        """The part of the name that goes by content."""
        return f"@{self.sha256[:12]}"

    def named(self, path: str) -> str:
        """The name of this content as it was, or would be, at another path."""
        return path.rsplit("/", 1)[-1] + self.mark

    @property
    def folder(self) -> str:
        return self.path.rsplit("/", 1)[0]


@dataclass(frozen=True)
class Row:
    """A row as it stands in its source, or why it cannot be read."""

    number: int
    values: dict[str, Any]
    reason: str | None = None
    detail: str = ""


def find_sources(uri: str) -> list[Source]:
    """The file at `uri`, or all readable files below a folder, sorted by path."""
    filesystem, paths = find_files(uri)
    scheme = uri.split("://", 1)[0] + "://" if "://" in uri else ""
    return [Source(scheme + each, each, filesystem, _digest(filesystem, each)) for each in paths]


def find_files(uri: str) -> tuple[pafs.FileSystem, list[str]]:
    """The paths behind `uri`, read no further; SourceError says what is wrong with it."""
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri) if "://" in uri else (pafs.LocalFileSystem(), _absolute(uri))
        info = filesystem.get_file_info(path)
    except OSError as error:
        raise SourceError(f"cannot reach {uri}: {error}") from error
    if info.type == pafs.FileType.NotFound:
        raise SourceError(f"no file or folder at {uri}; give a {', '.join(SUFFIXES)} file or a folder of them.")
    if info.type == pafs.FileType.Directory:
        listed = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
        paths = sorted(entry.path for entry in listed if entry.is_file and entry.path.lower().endswith(SUFFIXES))
        if not paths:
            raise SourceError(f"the folder {uri} holds no {', '.join(SUFFIXES)} file.")
    elif path.lower().endswith(SUFFIXES):
        paths = [path]
    else:
        raise SourceError(f"{uri} is not a {', '.join(SUFFIXES)} file; convert it to one of these.")
    return filesystem, paths


def _absolute(path: str) -> str:
    from pathlib import Path

    return str(Path(path).expanduser().resolve())


def _digest(filesystem: pafs.FileSystem, path: str) -> str:
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_rows(source: Source) -> Iterator[Row]:
    """Every row of a source in order; a row that cannot be read comes with a reason and its raw text as `values`."""
    suffix = "." + source.path.lower().rsplit(".", 1)[-1]
    if suffix == ".parquet":
        yield from _read_parquet(source)
    elif suffix in (".csv", ".tsv"):
        yield from _read_csv(source, "," if suffix == ".csv" else "\t")
    else:
        yield from _read_jsonl(source)


def _read_parquet(source: Source) -> Iterator[Row]:
    number = 0
    with source.filesystem.open_input_file(source.path) as stream:
        if stream.size() == 0:
            return
        try:
            batches = pq.ParquetFile(stream).iter_batches(batch_size=4096)
            for batch in batches:
                for values in batch.to_pylist():
                    yield Row(number, values)
                    number += 1
        except (OSError, ValueError) as error:
            detail = f"{source.file} is not Parquet, or it is damaged: {error}"
            yield Row(number, {"raw": source.name}, "unreadable_parquet", detail)


def _read_jsonl(source: Source) -> Iterator[Row]:
    with source.filesystem.open_input_stream(source.path) as stream:
        lines = (line for line in io.BufferedReader(stream, 1 << 20) if line.strip())
        for number, line in enumerate(lines):
            try:
                values = json.loads(line)
            except UnicodeDecodeError as error:
                yield Row(number, _raw(line), "invalid_utf8", f"byte {error.start} of the line: {error.reason}")
            except (json.JSONDecodeError, RecursionError) as error:
                yield Row(number, _raw(line), "invalid_json", str(error))
            else:
                if isinstance(values, dict):
                    yield Row(number, values)
                else:
                    yield Row(number, _raw(line), "invalid_json", f"a {type(values).__name__}, not an object")


def _read_csv(source: Source, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(_CELL_LIMIT)  # the default of 128 KiB would stop the file at one long cell
    with source.filesystem.open_input_stream(source.path) as stream:
        text = io.TextIOWrapper(
            io.BufferedReader(stream, 1 << 20), encoding="utf-8-sig", errors="surrogateescape", newline=""
        )
        reader = csv.reader(text, delimiter=delimiter)
        header = next(reader, [])
        for number, cells in enumerate(cells for cells in reader if cells):
            joined = delimiter.join(cells)
            if not joined.isascii() and any("\udc80" <= character <= "\udcff" for character in joined):
                yield Row(number, {"raw": joined}, "invalid_utf8", "bytes that are not UTF-8")
            elif len(cells) != len(header):
                yield Row(number, {"raw": joined}, "malformed_row", f"{len(cells)} cells, the header has {len(header)}")
            else:
                yield Row(number, {name: cell or None for name, cell in zip(header, cells, strict=True)})


def _raw(line: bytes) -> dict[str, Any]:
    return {"raw": line.decode("utf-8", "backslashreplace").rstrip("\n")}
