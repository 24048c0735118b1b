"""Explain an item: its SID, the items that share each prefix, and the origin of its vectors and its SID."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import polars as pl
import pyarrow.dataset as ds

from flows.inspect.status import as_shown
from sidmill.release import open_trie
from storage.errors import LakeNotFound
from storage.lake import Lake
from storage.quarantine import open_rows
from storage.releases.catalogue import catalogue
from storage.releases.manifest import Manifest
from tokenizer.trie.trie import Trie

SHOWN = 8
"""Most items listed per prefix."""


@dataclass(frozen=True)
class TitledItem:
    """An item and its title."""

    item_id: str
    title: str | None


@dataclass(frozen=True)
class PrefixMembers:
    """First codes of a SID, the number of items whose SIDs begin with them, and at most SHOWN others of these."""

    prefix: list[int]
    items: int
    sharing: list[TitledItem]


@dataclass(frozen=True)
class StoredVector:
    """A vector of an item: its modality, the hash of the content, and the fingerprint of what made it."""

    modality: str
    content_hash: str
    fingerprint: str


@dataclass(frozen=True)
class AssignedRow:
    """A row of an item in the SID table: the segment, how the SID was found, and the hash of the encoded vector."""

    assignment: str
    status: str
    vector_hash: str


@dataclass(frozen=True)
class DriftOfItem:
    """The cosine of an item's vector to the one that its SID encodes, when a segment was made."""

    assignment_id: str
    cosine: float


@dataclass(frozen=True)
class RefusedRow:
    """An open row of the quarantine, with its remedy, and the file and the number of the row there, if it has any."""

    stage: str
    reason: str
    detail: str
    remedy: str
    source: str | None
    source_row: int | None


@dataclass(frozen=True)
class Lineage:
    """Origin of an item: the row of its newest revision, its vectors, its rows in the SID table, and its drift.

    The row is None, and so are its time and revision, if the catalogue of the release lacks the item.
    """

    source: str | None
    arrived_at: str | None
    revision: int | None
    vectors: list[StoredVector]
    assignment: list[AssignedRow]
    codebook: str
    fusion: str
    drift: list[DriftOfItem]


@dataclass(frozen=True)
class Explanation:
    """All that a release has on an item. `sid` is None without a SID; `path` has the prefixes of the SID.

    `quarantine` has the open rows about the item.
    """

    item: str
    release: str
    title: str | None
    deleted: bool | None
    sid: list[int] | None
    path: list[PrefixMembers]
    lineage: Lineage
    quarantine: list[RefusedRow] = field(default_factory=list)

    def as_record(self) -> dict[str, Any]:
        """Return the explanation as JSON-serialisable values."""
        return asdict(self)


R = TypeVar("R", TitledItem, StoredVector, DriftOfItem, RefusedRow)


def explain_item(lake: Lake, manifest: Manifest, item: str) -> Explanation:
    """Return all that a release has on an item; raise LakeNotFound if there is nothing."""
    known = catalogue(lake, manifest.versions["items"], manifest.as_of, among=[item])
    refused = open_rows(lake).filter(pl.col("subject") == item)
    trie = open_trie(lake, manifest)
    found = trie.find(item)
    if found is None and known.is_empty() and refused.is_empty():
        raise LakeNotFound(
            f"{manifest.id} has no item {item!r}; an item that arrived later gets its SID in the next nightly run."
        )
    row = known.to_dicts()[0] if known.height else {}
    sid = None if found is None else [int(code) for code in found]
    return Explanation(
        item=item,
        release=manifest.id,
        title=row.get("title"),
        deleted=row.get("deleted"),
        sid=sid,
        path=[] if sid is None else _path(lake, manifest, trie, sid, item),
        lineage=_lineage(lake, manifest, item, row),
        quarantine=_rows(RefusedRow, as_shown(refused)),
    )


def _rows(record: type[R], frame: pl.DataFrame) -> list[R]:
    """Return the rows of a frame as records, by the columns that the records have."""
    names = [each.name for each in fields(record)]
    return [record(*row) for row in frame.select(names).iter_rows()]


def _path(lake: Lake, manifest: Manifest, trie: Trie, sid: list[int], item: str) -> list[PrefixMembers]:
    """Return, for every prefix of the SID, the number of items that share it and the titles of some."""
    path = []
    for length in range(1, len(sid) + 1):
        start, stop = trie.prefix_range(sid[:length])
        sharing = [other for other in trie.item_ids.slice(start, stop - start).to_pylist() if other != item]
        titles = catalogue(lake, manifest.versions["items"], manifest.as_of, ["title"], sharing[:SHOWN])
        path.append(PrefixMembers(sid[:length], int(stop - start), _rows(TitledItem, titles)))
    return path


def _lineage(lake: Lake, manifest: Manifest, item: str, row: dict[str, Any]) -> Lineage:
    """Return the origin of an item; `row` is its row in the catalogue of the release, empty if there is none."""
    assigned = lake.frame(
        "sids",
        manifest.versions["sids"],
        where=(ds.field("codebook") == manifest.codebook.id) & (ds.field("item_id") == item),
    ).to_dicts()
    vectors = lake.frame(
        "vectors",
        manifest.versions["vectors"],
        ["modality", "content_hash", "fingerprint"],
        ds.field("item_id") == item,
    )
    drift = lake.frame("drift", manifest.versions["drift"], where=ds.field("item_id") == item)
    return Lineage(
        source=f"{row['source']} row {row['source_row']}" if row else None,
        arrived_at=row["arrived_at"].isoformat() if row else None,
        revision=row.get("revision"),
        vectors=_rows(StoredVector, vectors),
        assignment=[
            AssignedRow(each["assignment_id"], each["status"], each["vector_hash"])
            for each in assigned
            if each["assignment_id"] in manifest.assignments
        ],
        codebook=manifest.codebook.id,
        fusion=manifest.fusion.fingerprint,
        drift=_rows(DriftOfItem, drift),
    )
