"""Migrate a lake of an older format in place; nothing that a release pins is rewritten."""

import json
from collections.abc import Iterator

from storage.commit import Provenance
from storage.errors import DataCorrupt, LakeNotFound
from storage.files.table_log import Log
from storage.format import FORMAT, OLDEST_WRITABLE, write_format
from storage.lake import Lake
from storage.releases.integrity import adopt_all
from storage.releases.releases import releases
from storage.schemas import TABLES


def migrate(lake: Lake, provenance: Provenance) -> Iterator[str]:
    """Migrate and yield a message per step; a lake that can be written to is left as it is. Safe to rerun after a kill.

    From format 1: tables keep their log permanently, `pointers` exists, and the hash of every data file is recorded.
    After a kill between the last two steps, the next run that publishes records the missing hashes.
    """
    if lake.format is None:
        raise LakeNotFound(f"there is no lake at {lake.uri}. Check --lake.")
    if lake.format >= OLDEST_WRITABLE:
        yield f"the lake {lake.uri} has format {lake.format} already; nothing to do"
        return
    for table in TABLES:
        if lake.exists(table):
            for fault in Log(lake.table_files(table), table).faults():
                raise DataCorrupt(f"{fault} Then migrate again.")
    if not lake.exists("pointers") and _published_once(lake):
        raise DataCorrupt(
            f"the table 'pointers' of the lake {lake.uri} is missing, although runs have published to it. Restore its "
            "folder from a backup of the lake, then migrate again."
        )
    known = releases(lake)
    lake.keep_logs()
    yield "tables now keep all entries of their logs and all files in these entries"
    write_format(lake.files)
    migrated = Lake(lake.uri)
    migrated.open_or_create("pointers")
    yield f"{adopt_all(migrated, known, provenance):,} data files hashed"
    yield f"the lake {lake.uri} now has format {FORMAT}; its {len(known):,} releases are unchanged"


def _published_once(lake: Lake) -> bool:
    rows = lake.read("runs", columns=["event", "name", "detail"]).to_pylist()
    return any(row["event"] == "stage" and row["name"] == "publish" and json.loads(row["detail"]) for row in rows)
