"""`lake backup` and `lake restore`: a release with all that it pins, in an empty place, with the hashes of all files.

A backup is a lake as a `lake gc` that keeps one release would leave it: the newest version of each table, the versions
and blobs that the release pins, and those of its model. In it all other releases are retired. So there is no format of
backups, and a backup can be read in place.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain

import pyarrow as pa

from storage.commit import Provenance, swap, take_out
from storage.errors import DataCorrupt, ErasedMeanwhile, LakeFormat, LakeNotFound, LakeUnusable
from storage.files.data_files import NAME
from storage.files.store import Files
from storage.files.table_log import Log, LogEntry, entry_path
from storage.files.trim import checkpoint_name, write_trim
from storage.format import BACKUP, MARKER, OLDEST_WRITABLE, write_format
from storage.lake import Lake
from storage.releases.completeness import require_complete
from storage.releases.integrity import model_blobs, pinned_blobs
from storage.releases.manifest import Manifest
from storage.releases.models import Model, newest_model, read_model, recorded_models
from storage.releases.pointers import Published, move_pointer, pointer_history, targets_of
from storage.releases.publishing import ROLLBACK
from storage.releases.releases import PRODUCTION, read_release, recorded_releases
from storage.releases.standing import retirements, standing_of
from storage.retention.copying import Copied, copy_files, require_empty
from storage.retention.garbage import BLOBS, erasing, old_sequences, pictures
from storage.retention.tables import log_parts, trim_of
from storage.schemas import TABLES


@dataclass(frozen=True)
class Backup:
    """Contents of a backup: production of the backup, and its files."""

    lake: str
    made_at: str
    release: str
    model: str | None
    files: tuple[Copied, ...]

    @property
    def size(self) -> int:
        return sum(each.size for each in self.files)


def backup(lake: Lake, target: str, release: str, provenance: Provenance) -> Backup:
    """Copy a release with all that it pins to an empty place, beside running runs.

    Raise LakeUnusable if the place is not empty, DataCorrupt if a file does not arrive as it was committed, and
    ErasedMeanwhile beside an erasure, or after one that did not end.
    """
    if (lake.format or 0) < OLDEST_WRITABLE:
        raise LakeFormat(f"the lake {lake.uri} has format {lake.format or 'none'}: run `sidmill lake migrate` first.")
    require_complete(lake)
    erasures = lake.version("erasures")
    _require_no_erasure(lake, erasures)
    manifest = read_release(lake, release)
    model = _model_of(lake, manifest)
    releases = [manifest] if model is None else [manifest, read_release(lake, model.release)]
    copy = Lake(target)
    require_empty(copy.files, "a backup")
    require_apart(lake, copy)
    write_format(copy.files, "lake backup")
    staying = {each.id for each in releases} | ({model.id} if model else set())
    others = _others(lake, staying)
    captured = dict[str, int]()
    for table in filter(lake.exists, reversed(TABLES)):  # what names rows before the rows
        captured[table] = _copy_table(lake, copy, table, releases, others, captured)
    blobs = {digest for each in releases for _, digest in pinned_blobs(each)} | pictures(lake)
    blobs |= {digest for _, digest in model_blobs(model)} if model else set()
    for copied in copy_files(lake.files, copy.files, (f"{BLOBS}/{digest[:2]}/{digest}" for digest in blobs)):
        if copied.sha256 != copied.path[-64:]:
            raise DataCorrupt(f"the blob {lake.uri}/{copied.path} is damaged. Restore it before you make a backup.")
    _require_no_erasure(lake, erasures)
    write_format(copy.files)
    others = _others(Lake(target), staying)  # with those that a run recorded meanwhile
    _keep_only(Lake(target), Published(manifest.id, model.id if model else None), others, provenance)
    return _record(lake, copy.files, manifest, model)


def require_apart(lake: Lake, copy: Lake) -> None:
    """Raise LakeUnusable if one of two places is in the other."""
    one, other = f"{lake.uri}/", f"{copy.uri}/"
    if one.startswith(other) or other.startswith(one):
        raise LakeUnusable(
            f"the backup {copy.uri} and the lake {lake.uri} lie one in the other, so they would be lost together: "
            "give another place."
        )


def restore(source: str, lake: Lake) -> Backup:
    """Copy a backup to the empty place of a lake, and compare each file with its hash."""
    files = Files(source.rstrip("/"))
    found = read_backup(files)
    require_empty(lake.files, "a restore")
    write_format(lake.files, "lake restore")
    wanted = {each.path: each for each in found.files if each.path != MARKER}
    for copied in copy_files(files, lake.files, wanted):
        if copied != wanted[copied.path]:
            raise DataCorrupt(f"the file {files.uri}/{copied.path} was changed since the backup: use another backup.")
    write_format(lake.files)
    return found


def read_backup(files: Files) -> Backup:
    """Return the record of a backup. Raise LakeNotFound if there is none, DataCorrupt if it cannot be read."""
    try:
        stored = json.loads(files.read(BACKUP))
        return Backup(**{**stored, "files": tuple(Copied(**each) for each in stored["files"])})
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LakeNotFound(
            f"there is no whole backup at {files.uri}: it has no {BACKUP}, which `sidmill lake backup` writes last."
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataCorrupt(
            f"{files.uri}/{BACKUP} is damaged, so the backup cannot be verified. Use another one."
        ) from error


def _require_no_erasure(lake: Lake, version: int) -> None:
    """Raise ErasedMeanwhile if an erasure has not ended, or table `erasures` is not at a version any more."""
    if erasing(lake) or lake.version("erasures") != version:
        raise ErasedMeanwhile(
            f"`sidmill lake erase` takes rows out of the lake {lake.uri}, which the backup would hold: make it in an "
            "empty place when the erasure has ended. One that was killed goes on with `sidmill lake erase --resume "
            "--yes`."
        )


def _model_of(lake: Lake, manifest: Manifest) -> Model | None:
    """Return the model that a release was last published with, else the newest that was trained for it."""
    with_it = [each.model for each in targets_of(pointer_history(lake, PRODUCTION)) if each.release == manifest.id]
    name = with_it[-1] if with_it else newest_model(lake, manifest.id)
    return None if name is None else read_model(lake, name)


def _others(lake: Lake, staying: set[str]) -> set[str]:
    recorded = {each.id for each in recorded_releases(lake)} | {each.id for each in recorded_models(lake)}
    return recorded - staying


def _copy_table(
    lake: Lake, copy: Lake, table: str, releases: Iterable[Manifest], others: set[str], captured: Mapping[str, int]
) -> int:
    """Copy a table, up to the version that is returned, and the versions that releases pin.

    It goes no further than what was `captured` of other tables when its commits were made. The sequences of other
    releases are left out.
    """
    source, target = lake.table_files(table), copy.table_files(table)
    log = Log(source, table)
    for fault in log.faults():
        raise DataCorrupt(fault)
    newest = min((n for n, each in log.entries.items() if _ahead(each, captured)), default=max(log.entries) + 1) - 1
    needed = {each.versions.get(table, -1) for each in releases} - {-1}
    parts = log_parts(log, needed, newest)
    names = [entry_path(number) for number in log.entries if number <= newest and parts.has(number)]
    names += [checkpoint_name(number) for number in parts.bases]
    data = set(chain.from_iterable(log.files_at(version) for version in (*needed, newest)))
    if table == "sequences":
        data -= set(old_sequences(lake, others))
    _check_names(source, copy_files(source, target, [*names, *data]))
    if parts.before:
        write_trim(target, trim_of(log, source, parts))
    return newest


def _ahead(entry: LogEntry, captured: Mapping[str, int]) -> bool:
    return any(entry.seen.get(table, -1) > version for table, version in captured.items())


def _check_names(source: Files, copied: Iterable[Copied]) -> None:
    for each in copied:
        match = NAME.fullmatch(each.path)
        if match and match["whole"] != each.sha256:
            raise DataCorrupt(f"the data file {source.uri}/{each.path} was changed after its commit. Restore it first.")


def _keep_only(copy: Lake, target: Published, others: set[str], provenance: Provenance) -> None:
    """Retire all other releases and models in a copy, and point production at its release, held if it moves."""
    now = datetime.now(UTC)

    def decide(rows: pa.Table) -> pa.Table | None:
        there = others - set(standing_of(rows).retired)
        return retirements(there, now, "not in the backup", provenance) if there else None

    swap(copy, "pointers", decide, provenance)
    alias = pointer_history(copy, PRODUCTION)[-1]
    if alias.target != target:
        move_pointer(copy, alias, asdict(target), ROLLBACK, provenance)
    if copy.exists("sequences"):
        take_out(copy, "sequences", set(old_sequences(copy, others)), provenance)


def _record(lake: Lake, files: Files, manifest: Manifest, model: Model | None) -> Backup:
    """Write the list of all files of a backup with their hashes."""
    listed = sorted(files.found(), key=lambda each: each.path)
    copied = tuple(Copied(each.path, each.size, files.hash(each.path)) for each in listed)
    made = Backup(lake.uri, datetime.now(UTC).isoformat(), manifest.id, model.id if model else None, copied)
    files.write(BACKUP, json.dumps(asdict(made), indent=1).encode() + b"\n")
    return made
