"""Integrity: every file that a release pins exists with the bytes that were committed.

The name of a data file has its hash. For files of other programs (a lake of an older format, an external compaction)
the table `checksums` has the hash at the time when the lake first recorded them.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import pyarrow as pa

from storage.commit import Provenance, append
from storage.errors import LakeError
from storage.files.data_files import DataFile, corrupt, missing
from storage.lake import Lake
from storage.releases.manifest import Manifest
from storage.releases.models import Model, read_model
from storage.schemas import CHECKSUMS, TABLES

CHANGED_MS = 2_000
"""A file whose time differs by more from the time in the log was modified or copied since its commit."""


@dataclass(frozen=True)
class Effort:
    """Limits of hashing: it ends with the file in which the seconds are over. Files of more than `size` bytes in all
    are hashed alone.
    """

    seconds: float
    size: int


@dataclass(frozen=True)
class Pinned:
    """A data file of a table, with its hash if known."""

    table: str
    file: DataFile
    sha256: str | None


def checksums(lake: Lake) -> dict[tuple[str, str], str]:
    """Return the hashes of files that other programs wrote, by table and path."""
    rows = lake.read("checksums", columns=["table", "path", "sha256"]).to_pylist()
    return {(row["table"], row["path"]): row["sha256"] for row in rows}


def pinned_files(lake: Lake, manifest: Manifest) -> list[Pinned]:
    """Return the data files of all table versions that a release pins; raise DataCorrupt if a log is damaged."""
    adopted = checksums(lake)
    return [
        Pinned(table, file, file.sha256 or adopted.get((table, file.path)))
        for table, version in sorted(manifest.versions.items())
        if version >= 0
        for file in lake.data_files(table, version)
    ]


def pinned_blobs(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield (description, sha256) of the blobs that a release names."""
    yield f"codebook {manifest.codebook.id}", manifest.codebook.blob
    yield f"fusion {manifest.fusion.fingerprint}", manifest.fusion_blob
    yield f"trie {manifest.trie.sha256[:12]}", manifest.trie.sha256
    yield from _factors(manifest)


def _factors(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for name, encoder in sorted(manifest.encoders.items()):
        if "factors" in encoder.details:
            yield f"factors of {name}", str(encoder.details["factors"])


def model_blobs(model: Model) -> Iterator[tuple[str, str]]:
    """Yield (description, sha256) of the blobs that a model names."""
    yield f"weights of {model.id}", model.weights
    if model.card.record_blob is not None:
        yield f"record of {model.id}", model.card.record_blob


def check_file(lake: Lake, pinned: Pinned) -> None:
    """Raise DataCorrupt unless a file exists with its hash."""
    place = lake.table_files(pinned.table)
    try:
        found = place.hash(pinned.file.path)
    except FileNotFoundError as error:
        raise missing(place, pinned.file) from error
    if pinned.sha256 is not None and found != pinned.sha256:
        raise corrupt(place, pinned.file)


def check_pinned(
    lake: Lake, manifest: Manifest, model: str | None, provenance: Provenance, effort: Effort | None = None
) -> None:
    """Raise DataCorrupt, BlobCorrupt or LakeNotFound unless all files of a release and a model are undamaged.

    The existence and size of all data files are checked, and the blobs and the files of codebooks are hashed. The other
    data files are hashed too, by default all; with an `effort`, until it is spent: first those modified since their
    commit, then the others in an order that differs between releases, so that each gets its turn. Factors, which are
    large and checked where they are read, then take turns with the files. Hashes of files that other programs wrote are
    recorded.
    """
    until = None if effort is None else time.monotonic() + effort.seconds
    files = pinned_files(lake, manifest)
    touched = _check_sizes(lake, files)
    factors = [digest for _, digest in _factors(manifest)]
    for _, digest in [*pinned_blobs(manifest), *(model_blobs(read_model(lake, model)) if model else ())]:
        if digest not in factors:
            lake.blobs.check(digest)
    _adopt(lake, [each for each in files if each.sha256 is None], provenance)
    for each in files:
        if each.table == "codebooks":
            check_file(lake, each)
    parts = [
        _Part(each.file.path, each.file.size, partial(check_file, lake, each))
        for each in files
        if each.sha256 and each.table != "codebooks"
    ]
    parts += [_Part(digest, lake.blobs.size(digest), partial(lake.blobs.check, digest)) for digest in factors]
    hashed = 0
    for part in sorted(parts, key=lambda one: (one.name not in touched, _turn(manifest.id, one.name))):
        if effort is not None and until is not None:
            if time.monotonic() > until:
                return
            if hashed and hashed + part.size > effort.size:
                continue
        part.check()
        hashed += part.size


@dataclass(frozen=True)
class _Part:
    """A file or blob to hash."""

    name: str
    size: int
    check: Callable[[], None]


def _check_sizes(lake: Lake, files: list[Pinned]) -> set[str]:
    """Return paths of files modified since their commit; raise DataCorrupt if one is missing or truncated."""
    touched = set()
    for table in sorted({each.table for each in files}):
        place = lake.table_files(table)
        own = [each.file for each in files if each.table == table]
        for file, found in zip(own, place.info([each.path for each in own]), strict=True):
            if found is None:
                raise missing(place, file)
            size, changed_ns = found
            if size != file.size:
                raise corrupt(place, file)
            if abs(changed_ns // 1_000_000 - file.changed_ms) > CHANGED_MS:
                touched.add(file.path)
    return touched


def _turn(release: str, name: str) -> bytes:
    return hashlib.blake2b(f"{release}\0{name}".encode(), digest_size=8).digest()


def _adopt(lake: Lake, files: list[Pinned], provenance: Provenance) -> None:
    """Record the hashes of files that another program wrote."""
    rows = [
        {
            "table": each.table,
            "path": each.file.path,
            "sha256": lake.table_files(each.table).hash(each.file.path),
            "size": each.file.size,
            "at": datetime.now(UTC),
            "run": provenance.run,
        }
        for each in files
    ]
    if rows:
        name = hashlib.sha256("\0".join(f"{row['table']}/{row['path']}" for row in rows).encode()).hexdigest()[:24]
        append(lake, "checksums", pa.Table.from_pylist(rows, schema=CHECKSUMS.schema), f"checksums:{name}", provenance)


def adopt_all(lake: Lake, manifests: Iterable[Manifest], provenance: Provenance) -> int:
    """Record the hashes of all files of other programs, pinned or in a newest version; return their number."""
    known, found = checksums(lake), dict[tuple[str, str], Pinned]()
    versions = {(table, version) for manifest in manifests for table, version in manifest.versions.items()}
    newest = {(table, lake.version(table)) for table in TABLES if lake.exists(table)}
    for table, version in sorted(versions | newest):
        for file in lake.data_files(table, version):
            if file.sha256 is None and (table, file.path) not in known:
                found[(table, file.path)] = Pinned(table, file, None)
    _adopt(lake, list(found.values()), provenance)
    return len(found)


def first_fault(check: Callable[..., object], *arguments: object) -> str | None:
    """Return the fault that a check raises, as text; None if it raises none."""
    try:
        check(*arguments)
    except (LakeError, ValueError, OSError) as error:
        return str(error)
    return None
