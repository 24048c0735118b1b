"""Explain an item: its SID, the items that share each prefix, and the origin of its vectors and its SID."""

from typing import Any

import pyarrow.dataset as ds

from flows.inspect.status import as_shown
from sidmill.release import open_trie
from storage.errors import LakeNotFound
from storage.lake import Lake
from storage.quarantine import open_rows
from storage.releases.catalogue import catalogue
from storage.releases.manifest import Manifest

# Most items listed per prefix.
SHOWN = 8


def explain_item(lake: Lake, manifest: Manifest, item: str) -> dict[str, Any]:
    """Return all that a release has on an item; raise LakeNotFound if there is nothing."""
    versions = manifest.versions
    known = catalogue(lake, versions["items"], manifest.as_of, among=[item])
    refused = open_rows(lake).filter(open_rows(lake)["subject"] == item)
    trie = open_trie(lake, manifest)
    codes = trie.find(item)
    if codes is None and known.is_empty() and refused.is_empty():
        raise LakeNotFound(
            f"{manifest.id} has no item {item!r}; an item that arrived later gets its SID in the next nightly run."
        )
    row = known.to_dicts()[0] if known.height else {}
    return {
        "item": item,
        "release": manifest.id,
        "title": row.get("title"),
        "deleted": row.get("deleted"),
        "sid": None if codes is None else [int(code) for code in codes],
        "path": [] if codes is None else _path(lake, manifest, trie, [int(code) for code in codes], item),
        "lineage": _lineage(lake, manifest, item, row),
        "quarantine": as_shown(refused)
        .select("stage", "reason", "detail", "remedy", "source", "source_row")
        .to_dicts(),
    }


def _path(lake: Lake, manifest: Manifest, trie: Any, codes: list[int], item: str) -> list[dict[str, Any]]:
    """Return, for every prefix of the SID, the number of items that share it and the titles of some."""
    path = []
    for length in range(1, len(codes) + 1):
        start, stop = trie.prefix_range(codes[:length])
        sharing = [other for other in trie.item_ids.slice(start, stop - start).to_pylist() if other != item]
        titles = catalogue(lake, manifest.versions["items"], manifest.as_of, ["title"], sharing[:SHOWN])
        path.append(
            {
                "prefix": codes[:length],
                "items": int(stop - start),
                "sharing": titles.select("item_id", "title").to_dicts(),
            }
        )
    return path


def _lineage(lake: Lake, manifest: Manifest, item: str, row: dict[str, Any]) -> dict[str, Any]:
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
    return {
        "source": f"{row['source']} row {row['source_row']}" if row else None,
        "arrived_at": row["arrived_at"].isoformat() if row else None,
        "revision": row.get("revision"),
        "vectors": vectors.to_dicts(),
        "assignment": [
            {"assignment": each["assignment_id"], "status": each["status"], "vector_hash": each["vector_hash"]}
            for each in assigned
            if each["assignment_id"] in manifest.assignments
        ],
        "codebook": manifest.codebook.id,
        "fusion": manifest.fusion.fingerprint,
        "drift": drift.select("assignment_id", "cosine").to_dicts(),
    }
