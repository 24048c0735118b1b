"""Migrate a lake of an older format in place; nothing that a release pins is rewritten."""

import json
from collections.abc import Iterator

from storage.commit import Provenance
from storage.errors import DataCorrupt, LakeNotFound
from storage.files.table_log import Log
from storage.format import FORMAT, write_format
from storage.lake import Lake
from storage.releases.integrity import adopt_all
from storage.releases.releases import releases
from storage.schemas import TABLES


def migrate(lake: Lake, provenance: Provenance) -> Iterator[str]:
    """Migrate and yield a message per step; a lake of this format is left as it is. Safe to rerun after a kill.

    Format 1 to 2: tables keep their log permanently, `pointers` exists, and the hash of every data file is recorded.
    After a kill between the last two steps, the next run that publishes records the missing hashes.
    """
    if lake.format is None:
        raise LakeNotFound(f"there is no lake at {lake.uri}.")
    if lake.format == FORMAT:
        yield f"{lake.uri} has format {FORMAT} already"
        return
    for table in TABLES:
        if lake.exists(table):
            for fault in Log(lake.table_files(table), table).faults():
                raise DataCorrupt(f"{fault} Then migrate.")
    if not lake.exists("pointers") and _published_once(lake):
        raise DataCorrupt(
            f"the table 'pointers' of the lake {lake.uri} is missing, and runs have published to it: restore its "
            "folder from a backup of the lake, then migrate."
        )
    known = releases(lake)
    lake.keep_logs()
    yield "tables keep every entry of their logs, and the files that these name"
    write_format(lake.files)
    migrated = Lake(lake.uri)
    migrated.open_or_create("pointers")
    yield f"{adopt_all(migrated, known, provenance):,} data files hashed"
    yield f"{lake.uri} has format {FORMAT} now; {len(known):,} releases are as they were"


def _published_once(lake: Lake) -> bool:
    rows = lake.read("runs", columns=["event", "name", "detail"]).to_pylist()
    return any(row["event"] == "stage" and row["name"] == "publish" and json.loads(row["detail"]) for row in rows)
