"""Verify a lake: each pinned file once, each table log, and that every trie equals its SID table.

Releases and models that were retired pin nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from pipelines.modalities import FUSED
from storage.erasure.record import unfinished
from storage.errors import DataCorrupt, LakeError
from storage.files.data_files import DataFile
from storage.files.table_log import REMEDY, Log
from storage.format import MARKER, OLDEST_WRITABLE
from storage.lake import Lake
from storage.releases.completeness import require_complete, rows_of_others, tables_of_others
from storage.releases.integrity import Pinned, check_file, checksums, first_fault, model_blobs, pinned_blobs
from storage.releases.manifest import Manifest
from storage.releases.models import models, read_model
from storage.releases.pointers import require_pointers
from storage.releases.releases import published, read_release, releases
from storage.schemas import TABLES
from tokenizer.codebook import Codebook
from tokenizer.trie.trie import Trie

PATH = "__filename"
"""Name of Arrow's column with the file of a row."""


@dataclass(frozen=True)
class Finding:
    """The result of a check of `what`, which `subject` needs; `fault` is None if it is as it should be."""

    subject: str
    what: str
    fault: str | None


def verify(lake: Lake) -> Iterator[Finding]:
    """Yield every check. A file that many releases pin is read once."""
    yield Finding("lake", "pointers", first_fault(require_pointers, lake))
    logs = {table: Log(lake.table_files(table), table) for table in TABLES if lake.exists(table)}
    yield Finding("lake", "format", first_fault(_check_format, lake, logs))
    for table, log in logs.items():
        faults = list(log.faults())
        yield Finding(table, "log", " ".join(faults) or None)
        yield Finding(table, "newest version", first_fault(lake.open, table))
    yield Finding("lake", "no commit is lost", first_fault(require_complete, lake))
    yield Finding("lake", "no commit is of another program or lake", first_fault(_check_writers, lake, logs))
    for name in unfinished(lake):
        fault = "the erasure did not end: run `sidmill lake erase --resume --yes`, or the same command again"
        yield Finding("lake", name, fault)
    try:
        known = releases(lake)
    except LakeError as error:
        yield Finding("lake", "releases", str(error))
        known = []
    yield from _versions(lake, logs, known)
    for what, found in (
        ("data files", _data_files(lake, logs, known)),
        ("blobs", _blobs(lake, known)),
        ("vectors", _vectors(lake, known)),
        ("tries", _tries(lake, logs, known)),
        ("production", _production(lake)),
    ):
        try:
            yield from found
        except LakeError as error:  # data that further checks need is damaged
            yield Finding("lake", f"{what} (not all were checked)", str(error))


def _check_writers(lake: Lake, logs: dict[str, Log]) -> None:
    """Raise DataCorrupt if runs or programs that this lake does not know wrote into its tables."""
    entries = {table: list(log.entries.values()) for table, log in logs.items()}
    for fault in (*rows_of_others(lake, entries), *tables_of_others(lake, entries)):
        raise DataCorrupt(fault)


def _check_format(lake: Lake, logs: dict[str, Log]) -> None:
    """Raise DataCorrupt if a lake without a marker has files that are named by their hashes: format 1 has none."""
    if (lake.format or 0) >= OLDEST_WRITABLE:
        return
    for log in logs.values():
        for path in log.files_at(max(log.entries, default=-1)):
            if DataFile(path, 0, 0, None, {}, {}).sha256 is not None:
                raise DataCorrupt(
                    f"{MARKER} is missing: runs take {lake.uri} for a lake of format 1. Restore the file from a backup "
                    f"of the lake, or run `sidmill lake migrate --lake {lake.uri}`, which writes it."
                )


def _versions(lake: Lake, logs: dict[str, Log], known: list[Manifest]) -> Iterator[Finding]:
    """Check that the table's log has all entries that lead to every version that a release pins."""
    pinned: dict[tuple[str, int], str] = {}
    for manifest in known:
        for table, version in manifest.versions.items():
            pinned.setdefault((table, version), manifest.id)
    for (table, version), release in sorted(pinned.items()):
        if version < 0:
            continue
        there = table in logs and logs[table].opens(version)
        yield Finding(
            release, f"{table}@{version}", None if there else f"table {table!r} no longer has version {version}"
        )


def _data_files(lake: Lake, logs: dict[str, Log], known: list[Manifest]) -> Iterator[Finding]:
    """Check that every data file of a pinned or newest version has the bytes that were committed."""
    adopted = checksums(lake)
    for table, log in logs.items():
        wanted = {manifest.versions.get(table, -1) for manifest in known} | {max(log.entries, default=-1)}
        for path in sorted(set(chain.from_iterable(log.files_at(version) for version in wanted))):
            file = DataFile(path, 0, 0, None, {}, {})
            pinned = Pinned(table, file, file.sha256 or adopted.get((table, path)))
            fault = first_fault(check_file, lake, pinned)
            unknown = (
                "" if pinned.sha256 else " (written by another program: its hash is recorded when a release pins it)"
            )
            yield Finding(table, f"file {path}{unknown}", fault)


def _blobs(lake: Lake, known: list[Manifest]) -> Iterator[Finding]:
    """Check that every blob that a release, a model or an item names has the hash in its name."""
    named: dict[str, tuple[str, str]] = {}
    for manifest in known:
        for what, digest in pinned_blobs(manifest):
            named.setdefault(digest, (manifest.id, what))
        yield Finding(manifest.id, f"codebook {manifest.codebook.id}", first_fault(_check_codebook, lake, manifest))
    for model in models(lake):
        for what, digest in model_blobs(model):
            named.setdefault(digest, (model.id, what))
    for row in lake.read("items", columns=["item_id", "images"]).to_pylist() if lake.exists("items") else []:
        for digest in row["images"]:
            named.setdefault(digest, (f"item {row['item_id']}", f"picture {digest[:12]}"))
    for digest, (subject, what) in named.items():
        yield Finding(subject, what, first_fault(lake.blobs.check, digest))


def _check_codebook(lake: Lake, manifest: Manifest) -> None:
    codebook = Codebook.from_bytes(lake.blobs.get(manifest.codebook.blob))
    if (codebook.id, codebook.vocabulary) != (manifest.codebook.id, manifest.codebook.vocabulary):
        raise ValueError(f"the blob holds codebook {codebook.id}, not {manifest.codebook.id}")


def _vectors(lake: Lake, known: list[Manifest]) -> Iterator[Finding]:
    """Check that releases pin a fused vector of every item, by the numbers of rows in the log."""
    for manifest in known:
        if manifest.versions.get("vectors", -1) >= 0:
            yield Finding(manifest.id, "a vector of every item", first_fault(_check_vectors, lake, manifest))


def _check_vectors(lake: Lake, manifest: Manifest) -> None:
    own = (ds.field("modality") == FUSED) & (ds.field("fingerprint") == manifest.fusion.fingerprint)
    version = manifest.versions["vectors"]
    stored = lake.count("vectors", version, own)
    if stored < manifest.items:
        raise DataCorrupt(
            f"version {version} of the table 'vectors' has {stored:,} vectors of this release's fusion, for "
            f"{manifest.items:,} items: publish another release, or make it again with `sidmill run backfill`."
        )


def _tries(lake: Lake, logs: dict[str, Log], known: list[Manifest]) -> Iterator[Finding]:
    """Check that every trie equals its SID table: exactly the same items with the same codes."""
    if not known:
        return
    sids = _rows(lake, logs, known, "sids", ["assignment_id", "item_id", "codes"])
    items = _rows(lake, logs, known, "items", ["item_id", "revision", "deleted", "arrived_at"])
    for manifest in known:
        trie = f"trie {manifest.trie.sha256[:12]} against its SID table"
        yield Finding(manifest.id, trie, first_fault(_check_trie, lake, logs, manifest, sids, items))


def _rows(lake: Lake, logs: dict[str, Log], known: list[Manifest], table: str, columns: list[str]) -> pl.DataFrame:
    """Return the rows of the files of all pinned versions, with the file of each row."""
    if table not in logs:
        raise DataCorrupt(f"the table {table!r} of the lake {lake.uri} is missing: {REMEDY}.")
    paths = set(chain.from_iterable(logs[table].files_at(manifest.versions[table]) for manifest in known))
    rows: pa.Table = lake.read_files(table, map(DataFile.at, sorted(paths)), [*columns, PATH])
    return pl.DataFrame(rows)


def _check_trie(lake: Lake, logs: dict[str, Log], manifest: Manifest, sids: pl.DataFrame, items: pl.DataFrame) -> None:
    def at(table: str, rows: pl.DataFrame) -> pl.DataFrame:
        paths = logs[table].files_at(manifest.versions[table])
        return rows.filter(pl.col(PATH).is_in(sorted(paths)))

    for name in ("sids", "items"):
        if not logs[name].opens(manifest.versions[name]):
            raise DataCorrupt(f"not compared, because version {manifest.versions[name]} of table {name!r} is gone")
    trie = Trie.open(lake.blobs.local_path(manifest.trie.sha256))
    newest = at("items", items).filter(pl.col("arrived_at") <= manifest.as_of).sort("item_id", "revision")
    alive = newest.unique("item_id", keep="last").filter(~pl.col("deleted")).select("item_id")
    own = at("sids", sids).filter(pl.col("assignment_id").is_in(manifest.assignments))
    table = own.join(alive, on="item_id", how="semi").select("item_id", "codes").sort("item_id")
    stored = pl.DataFrame(
        {
            "item_id": pl.Series(trie.item_ids, dtype=pl.String),
            "codes": pl.Series(np.asarray(trie.codes()).tolist(), dtype=pl.List(pl.Int32)),
        }
    ).sort("item_id")
    if not stored.equals(table):
        raise ValueError(f"the trie and the SID table differ ({stored.height} and {table.height} items)")


def _production(lake: Lake) -> Iterator[Finding]:
    """Check that production's targets exist."""
    current = published(lake)
    if current is not None:
        yield Finding("production", f"-> {current.release}", first_fault(read_release, lake, current.release))
        if current.model is not None:
            yield Finding("production", f"-> {current.model}", first_fault(read_model, lake, current.model))
