"""`lake erase`: users and items leave every file of a lake, also what releases pin.

Tables first: every version names files without them afterwards. Then texts beside the tables. Runs that were running
may hold rows in memory and write them again, so the command waits for their end and looks once more. Last, the former
files go. A kill at any point leaves a lake whose versions can all be read; the same command goes on.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from learning.progress import emit
from storage.commit import Provenance
from storage.erasure.record import Seen, Wanted, begin_erasure, end_erasure, record_pass
from storage.erasure.rows import Subjects
from storage.erasure.tables import TableCleaner
from storage.errors import LakeError, LakeNotFound
from storage.files.data_files import DataFile
from storage.files.table_log import Log
from storage.lake import Lake
from storage.releases.completeness import require_complete
from storage.releases.integrity import model_blobs, pinned_blobs
from storage.releases.manifest import Manifest
from storage.releases.models import models, recorded_models
from storage.releases.releases import recorded_releases, releases
from storage.retention.garbage import ALERTS, BLOBS, ERASING, RUN_LOGS, pictures
from storage.retention.policy import running_runs
from storage.retention.tables import drafts
from storage.runs.log_lease import changing_logs
from storage.schemas import TABLES

TEXTS = (RUN_LOGS, "beats", ALERTS)
"""Folders of texts beside the tables."""
POLL_S = 1.0
"""Seconds between two looks whether the runs that an erasure waits for have ended."""

T = TypeVar("T")


class NotErased(LakeError):
    """Raised when runs are still running that may hold what is to be erased."""


@dataclass(frozen=True)
class Held:
    """Holdings of a lake of some subjects: rows by table, and where they were seen.

    `fusions` and `codebooks` are those of the releases in `seen`, by fingerprint and by id.
    """

    rows: Mapping[str, int]
    seen: Seen
    fusions: tuple[str, ...] = ()
    codebooks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Erased:
    """Outcome: what was held, and how many files were rewritten or removed."""

    held: Held
    files: int
    texts: int
    blobs: int


def held_by(lake: Lake, subjects: Subjects) -> Held:
    """Return what a lake holds; changes nothing. Raise LakeNotFound, or DataCorrupt if the lake is damaged."""
    return _held(lake, _cleaners(lake, subjects), subjects)


def erase(lake: Lake, subjects: Subjects, reason: str, provenance: Provenance, wait_s: float) -> Erased:
    """Take users and items out of a lake. Safe beside runs, to be killed at any point, and to be run again.

    Raise NotErased if runs that were running have not ended after `wait_s` seconds: all versions are clean then, and
    former files are still there. Raise LeaseTaken if another erasure, or a `lake gc`, goes on for so long. Raise
    DataCorrupt if the lake is damaged.
    """
    cleaners = _cleaners(lake, subjects)
    with changing_logs(lake, provenance, wait_s) as require_held:
        held = _held(lake, cleaners, subjects)
        wanted = Wanted(subjects.users, subjects.items)
        erasure = begin_erasure(lake, wanted, held.seen, subjects.texts.without(reason), provenance)
        texts = _clean_all(lake, cleaners, subjects, provenance, require_held)
        record_pass(lake, erasure, provenance)
        until = time.monotonic() + wait_s
        if _running(lake):
            _wait(lake, until)
            texts += _clean_all(lake, cleaners, subjects, provenance, require_held)
            record_pass(lake, erasure, provenance)
        require_held()
        files = _remove_former(lake, cleaners, until)
        blobs = _remove_blobs(lake, until) if subjects.items else 0
        _remove_drafts(lake, until)
        end_erasure(lake, erasure, provenance)
    return Erased(held, files, texts, blobs)


def _cleaners(lake: Lake, subjects: Subjects) -> dict[str, TableCleaner]:
    if lake.format is None:
        raise LakeNotFound(f"there is no lake at {lake.uri}. Check --lake.")
    require_complete(lake)
    cleaners = dict[str, TableCleaner]()
    _add_new_tables(lake, cleaners, subjects)
    return cleaners


def _add_new_tables(lake: Lake, cleaners: dict[str, TableCleaner], subjects: Subjects) -> None:
    """Add the tables that were made since the last call."""
    for table in TABLES:
        if table not in cleaners and lake.exists(table):
            cleaners[table] = TableCleaner(lake, table, subjects)


def _held(lake: Lake, cleaners: Mapping[str, TableCleaner], subjects: Subjects) -> Held:
    found = {table: files for table, cleaner in cleaners.items() if (files := cleaner.held()) and table != "releases"}
    logs = {table: Log(lake.table_files(table), table) for table in found}
    first = {path: _first_event(lake, path, subjects) for path in found.get("interactions", {})}
    pinned, fitted, trained = list[str](), list[Manifest](), set[str]()
    for manifest in releases(lake):
        own = {
            table: logs[table].files_at(version) & found[table].keys()
            for table, version in manifest.versions.items()
            if table in found
        }
        events = [first[path] for path in own.get("interactions", ())]
        if any(own.values()):
            pinned.append(manifest.id)
        if own.get("sids") or any(each < manifest.fit_cutoff for each in events):
            fitted.append(manifest)
        if own.get("sids") or any(each < manifest.cutoff for each in events):
            trained.add(manifest.id)
    learned = tuple(model.id for model in models(lake) if model.release in trained)
    rows = {table: sum(files.values()) for table, files in found.items()}
    return Held(
        rows,
        Seen(tuple(pinned), tuple(each.id for each in fitted), learned),
        fusions=tuple(dict.fromkeys(each.fusion.fingerprint for each in fitted)),
        codebooks=tuple(dict.fromkeys(each.codebook.id for each in fitted)),
    )


def _first_event(lake: Lake, path: str, subjects: Subjects) -> datetime:
    """Return the time of the first event of a data file that is about the subjects."""
    rows = lake.read_files("interactions", [DataFile.at(path)], ["user_id", "item_id", "event_time"])
    users, items = (pa.array(each, pa.string()) for each in (subjects.users, subjects.items))
    about = pc.or_(pc.is_in(rows["user_id"], value_set=users), pc.is_in(rows["item_id"], value_set=items))
    first: datetime = pc.min(rows.filter(about)["event_time"]).as_py()
    return first


def _clean_all(
    lake: Lake,
    cleaners: dict[str, TableCleaner],
    subjects: Subjects,
    provenance: Provenance,
    require_held: Callable[[], None],
) -> int:
    """Clean all tables, and the texts beside them; return how many texts changed."""
    _add_new_tables(lake, cleaners, subjects)
    for cleaner in cleaners.values():
        require_held()
        cleaner.clean(provenance)
    changed = 0
    for each in [file for folder in TEXTS for file in lake.files.found(folder)]:
        text = lake.files.read(each.path).decode("utf-8", "backslashreplace")
        clean = subjects.texts.without_in_json(text) if each.name.endswith(".json") else subjects.texts.without(text)
        if clean != text:
            lake.files.write(each.path, clean.encode())
            changed += 1
    return changed


def _running(lake: Lake) -> set[str]:
    return {run.run for run in running_runs(lake, datetime.now(UTC))}


def _wait(lake: Lake, until: float) -> None:
    """Wait for the end of the runs that are running; raise NotErased if they go on."""
    left = _running(lake)
    if left:
        emit(f"  waiting for the end of {', '.join(sorted(left))}")
    while left:
        if time.monotonic() > until:
            raise NotErased(
                f"{', '.join(sorted(left))} may hold rows of what you erase, and did not end in time. No version names "
                "these rows any more, but former files are still there. Run the same command again when the run has "
                "ended (`sidmill lake status`), or with a longer --wait. A run whose machine is gone ends "
                "by `sidmill run resume RUN`."
            )
        time.sleep(POLL_S)
        left &= _running(lake)


def _when_quiet(lake: Lake, until: float, listing: Callable[[], T]) -> T:
    """Return a listing that no run was running after: what nothing names in it is not about to be named."""
    while True:
        listed = listing()
        if not _running(lake):
            return listed
        _wait(lake, until)


def _remove_former(lake: Lake, cleaners: Mapping[str, TableCleaner], until: float) -> int:
    """Delete the files that hold something still, and unfinished files; nobody reads or writes them any more."""

    def listing() -> list[tuple[str, list[str], list[str]]]:
        return [(table, list(cleaner.held()), _unfinished(lake, table)) for table, cleaner in cleaners.items()]

    count = 0
    for table, former, unfinished in _when_quiet(lake, until, listing):
        count += cleaners[table].remove(former)
        for path in unfinished:
            with suppress(FileNotFoundError):  # its writer ended it
                lake.table_files(table).delete(path)
    return count


def _unfinished(lake: Lake, table: str) -> list[str]:
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    return [each.path for each in drafts(lake.table_files(table).found(), now_ms)]


def _remove_drafts(lake: Lake, until: float) -> None:
    """Delete what writers that were killed left beside the tables: it may hold ids, also those of an erasure."""

    def listing() -> list[str]:
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        folders = (BLOBS, ERASING, *TEXTS)
        return [each.path for folder in folders for each in drafts(lake.files.found(folder), now_ms)]

    for path in _when_quiet(lake, until, listing):
        with suppress(FileNotFoundError):  # its writer ended it
            lake.files.delete(path)


def _remove_blobs(lake: Lake, until: float) -> int:
    """Delete the blobs that no release, model or item names: those that held an item, and its pictures."""
    listed = _when_quiet(lake, until, lambda: lake.files.found(BLOBS))
    named = pictures(lake)
    for manifest in recorded_releases(lake):
        named |= {digest for _, digest in pinned_blobs(manifest)}
    for model in recorded_models(lake):
        named |= {digest for _, digest in model_blobs(model)}
    gone = [each.name for each in listed if len(each.name) == 64 and each.name not in named]
    for digest in gone:
        lake.blobs.delete(digest)
    return len(gone)
