"""Verify a lake: every version and hash that a release pins, and that its trie holds exactly its SID table."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from flows.snapshot import Snapshot
from flows.steps.candidate import live_sids
from storage.errors import LakeError
from storage.lake import Lake, TableRef
from storage.manifest import Manifest
from storage.models import models
from storage.releases import published, releases
from tokenizer.codebook import Codebook
from tokenizer.trie import Trie

Finding = tuple[str, str, str]  # (subject, what, "" or what is wrong)


def verify(lake: Lake) -> Iterator[Finding]:
    """Every check of every release and model, with what is wrong or an empty text."""
    for manifest in releases(lake):
        for table, version in sorted(manifest.versions.items()):
            if version >= 0:
                yield manifest.id, f"{table}@{version}", _attempt(_check_version, lake, table, version)
        yield manifest.id, f"codebook {manifest.codebook.id}", _attempt(_check_codebook, lake, manifest)
        yield manifest.id, f"fusion {manifest.fusion.fingerprint}", _attempt(lake.blobs.get, manifest.fusion_blob)
        yield manifest.id, f"trie {manifest.trie.sha256[:12]}", _attempt(_check_trie, lake, manifest)
    for model in models(lake):
        yield model["id"], f"weights {model['weights'][:12]}", _attempt(lake.blobs.get, model["weights"])
    current = published(lake)
    if current is not None:
        known = {manifest.id for manifest in releases(lake)}
        yield "production", f"-> {current.release}", "" if current.release in known else "no such release"


def _attempt(check: object, *arguments: object) -> str:
    assert callable(check)
    try:
        check(*arguments)
    except (LakeError, ValueError, OSError) as error:
        return str(error)
    return ""


def _check_version(lake: Lake, table: str, version: int) -> None:
    """The version opens and every file of it is there with its rows."""
    dataset = lake.open(table, version).to_pyarrow_dataset()
    rows = dataset.count_rows()
    if rows != lake.rows(table, version):
        raise ValueError(f"{table}@{version} has {rows} rows in its files, {lake.rows(table, version)} in its log")


def _check_codebook(lake: Lake, manifest: Manifest) -> None:
    codebook = Codebook.from_bytes(lake.blobs.get(manifest.codebook.blob))
    if (codebook.id, codebook.vocabulary) != (manifest.codebook.id, manifest.codebook.vocabulary):
        raise ValueError(f"the blob holds codebook {codebook.id}, not {manifest.codebook.id}")


def _check_trie(lake: Lake, manifest: Manifest) -> None:
    """The trie is what its SID table gives: the same items with the same codes, none missing, none more."""
    trie = Trie.open(lake.blobs.local_path(manifest.trie.sha256))
    snapshot = Snapshot(
        TableRef("items", manifest.versions["items"]),
        TableRef("interactions", manifest.versions["interactions"]),
        manifest.as_of,
        manifest.cutoff,
    )
    table = live_sids(lake, manifest.codebook.id, manifest.assignments, manifest.versions["sids"], snapshot)
    stored = pl.DataFrame(
        {
            "item_id": pl.Series(trie.item_ids, dtype=pl.String),
            "codes": pl.Series(np.asarray(trie.codes()).tolist(), dtype=pl.List(pl.Int32)),
        }
    ).sort("item_id")
    if not stored.equals(table.sort("item_id")):
        raise ValueError(f"the trie and the SID table differ ({stored.height} and {table.height} items)")
