"""The grounding corpus of a release as files: Parquet parts, and a manifest that is written last."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.diff import open_trie
from flows.recipe import parse_recipe
from flows.steps.fit import log_slice
from pipelines.grounding import GroundingSpec, grounding, tokens
from pipelines.ingest import Counts
from storage.lake import Lake
from storage.manifest import Manifest

MANIFEST = "manifest.json"


class FolderTaken(ValueError):
    """A folder that holds something else than this corpus."""


def export_grounding(lake: Lake, manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Write the corpus of a release into `folder` and return its manifest; a second call writes the same bytes.

    Raises FolderTaken for a folder with files of anything else.
    """
    _own(folder, manifest)
    recipe = parse_recipe(manifest.recipe)
    spec = GroundingSpec(
        fields=None if recipe.attributes is None else recipe.attributes.fields,
        negative_events=recipe.train.negative_events,
    )
    trie, left_out = open_trie(lake, manifest), Counts("grounding")
    special = tokens(trie.sizes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    rows: Counter[str] = Counter()
    parts = {}
    corpus = grounding(lake, trie, log_slice(manifest), manifest.versions["items"], spec, left_out)
    for number, table in enumerate(corpus):
        path = folder / f"part-{number:05d}.parquet"
        pq.write_table(table, path, compression="zstd")
        parts[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.update({each["values"]: each["counts"] for each in table["task"].value_counts().to_pylist()})
    written = {
        "release": manifest.id,
        "trie_sha256": manifest.trie.sha256,
        "vocabulary": manifest.codebook.vocabulary,
        "pyarrow": pa.__version__,
        "rows": dict(sorted(rows.items())),
        "left_out": dict(sorted(left_out.by_reason.items())),
        "parts": parts,
        "special_tokens": special,
    }
    draft = folder / f"{MANIFEST}.draft"
    draft.write_text(json.dumps(written, indent=1))
    draft.replace(folder / MANIFEST)
    return written


def _own(folder: Path, manifest: Manifest) -> None:
    """Refuse a folder with other files than those of this release's corpus, whole or half written."""
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    ours = [name for name in there if name.startswith((MANIFEST, "part-"))]
    if folder.exists() and not folder.is_dir():
        raise FolderTaken(f"{folder} is a file; name a folder")
    if len(ours) < len(there):
        raise FolderTaken(f"{folder} holds {next(name for name in there if name not in ours)}; name an empty folder")
    if MANIFEST in there and (held := json.loads((folder / MANIFEST).read_text())["release"]) != manifest.id:
        raise FolderTaken(f"{folder} holds the corpus of {held}, not of {manifest.id}; name an empty folder")
