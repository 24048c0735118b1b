"""The view of a lake that `bench soak` takes: rows, releases, production, faults, files that hold what was erased."""

from typing import Any

import pyarrow as pa

from bench.faults.erased_ids import files_holding
from bench.faults.lake_contents import faults, production, served
from sidmill.release import open_trie
from storage.errors import LakeError
from storage.lake import Lake
from storage.releases.pointers import pointer_history
from storage.releases.releases import PRODUCTION, read_release, releases


def look(lake: Lake, erased: list[str], clean: set[str]) -> dict[str, Any]:
    """Return what the oracle compares. Files in `clean` held nothing of what was erased, and are not read again."""
    moves = [{"release": m.value["release"], "model": m.value["model"], "note": m.note} for m in _history(lake)]
    holding, seen = files_holding(lake, erased, clean)
    unread = ""
    try:
        served(lake)
    except (LakeError, AssertionError) as error:
        unread = f"{type(error).__name__}: {error}"
    return {
        "pair": production(lake),
        "unread": unread,
        "faults": faults(lake),
        "moves": moves,
        "releases": {each.id: _release(lake, each.id) for each in releases(lake)},
        "events": _events(lake),
        "items": _items(lake),
        "holding": holding,
        "clean": seen,
    }


def _history(lake: Lake) -> list[Any]:
    return [move for move in pointer_history(lake, PRODUCTION)[1:] if move.value]


def _release(lake: Lake, release: str) -> dict[str, Any]:
    manifest = read_release(lake, release)
    trie = open_trie(lake, manifest)
    return {
        "as_of": manifest.as_of.isoformat(),
        "versions": {name: manifest.versions.get(name, -1) for name in ("items", "interactions")},
        "codebook": manifest.codebook.id,
        "sids": dict(zip(trie.item_ids.to_pylist(), trie.codes().tolist(), strict=True)),
    }


def _events(lake: Lake) -> list[list[Any]]:
    rows = lake.read("interactions", columns=["user_id", "item_id", "event_time", "event_type"])
    names = ("user_id", "item_id", "event_type")
    users, items, kinds = (rows[name].to_pylist() for name in names)
    times = rows["event_time"].cast(pa.int64()).to_pylist()
    return [list(each) for each in zip(users, items, times, kinds, strict=True)]


def _items(lake: Lake) -> dict[str, str | None]:
    newest: dict[str, dict[str, Any]] = {}
    for row in lake.read("items", columns=["item_id", "revision", "title", "deleted"]).to_pylist():
        if row["item_id"] not in newest or newest[row["item_id"]]["revision"] < row["revision"]:
            newest[row["item_id"]] = row
    return {item: None if row["deleted"] else row["title"] for item, row in newest.items()}
