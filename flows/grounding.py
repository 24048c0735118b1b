"""Export of the grounding corpus of a release: Parquet parts, and a manifest that is written last."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.recipe import parse_recipe
from learning.file_hash import file_sha256
from pipelines.counts import Counts
from pipelines.event_log.visible_log import LogSlice
from pipelines.grounding import SCHEMA, TEMPLATES, GroundingSpec, grounding, tokens
from plugins.registry import code_version
from sidmill.release import open_trie
from storage.lake import Lake
from storage.releases.manifest import Manifest

FORMAT = "sidmill-grounding-1"
MANIFEST = "manifest.json"
DRAFT = f"{MANIFEST}.draft"
# Rows after which a part ends.
PART_ROWS = 1 << 20


class FolderTaken(ValueError):
    """Raised for a folder that holds anything but this corpus."""


@dataclass(frozen=True)
class GroundingManifest:
    """The file that is written last to a corpus: what it was made of, its numbers of rows, and the sha256 of its parts.

    Times are ISO 8601. `rows` are counted by task, `left_out` by reason, `parts` go by file name. `special_tokens` are
    those of the codes, in order.
    """

    format: str
    code_version: str
    pyarrow: str
    release: str
    trie_sha256: str
    vocabulary: str
    as_of: str
    cutoff: str
    spec: GroundingSpec
    items: int
    rows: Mapping[str, int]
    left_out: Mapping[str, int]
    parts: Mapping[str, str]
    special_tokens: list[str]


def export_grounding(lake: Lake, manifest: Manifest, folder: Path) -> GroundingManifest:
    """Write the corpus of a release into `folder` and return its manifest; a second call writes the same bytes.

    Raise FolderTaken if the folder holds other files.
    """
    recipe = parse_recipe(manifest.recipe)
    spec = GroundingSpec(
        fields=None if recipe.attributes is None else recipe.attributes.fields,
        negative_events=recipe.train.negative_events,
    )
    trie, left_out = open_trie(lake, manifest), Counts("grounding")
    special = tokens(trie.sizes)
    earlier = _own(folder, manifest)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in earlier:
        path.unlink(missing_ok=True)
    rows = Counter(dict.fromkeys(TEMPLATES, 0))
    parts = {}
    batches = grounding(lake, trie, LogSlice.of(manifest), manifest.versions["items"], spec, left_out)
    for number, part in enumerate(_parts(batches)):
        path = folder / f"{_stem(manifest)}{number:05d}.parquet"
        with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
            for batch in part:
                writer.write_batch(batch)
                rows.update({each["values"]: each["counts"] for each in batch["task"].value_counts().to_pylist()})
        parts[path.name] = file_sha256(path)
    written = GroundingManifest(
        format=FORMAT,
        code_version=code_version(),
        pyarrow=pa.__version__,
        release=manifest.id,
        trie_sha256=manifest.trie.sha256,
        vocabulary=manifest.codebook.vocabulary,
        as_of=manifest.as_of.isoformat(),
        cutoff=manifest.cutoff.isoformat(),
        spec=spec,
        items=len(trie),
        rows=dict(rows),
        left_out=dict(sorted(left_out.by_reason.items())),
        parts=parts,
        special_tokens=special,
    )
    (folder / DRAFT).write_text(json.dumps(asdict(written), indent=1))
    (folder / DRAFT).replace(folder / MANIFEST)
    return written


def format_summary(written: GroundingManifest) -> str:
    """Format a manifest in one line."""
    rows, left_out = (
        ", ".join(f"{name} {count:,}" for name, count in counted.items())
        for counted in (written.rows, written.left_out)
    )
    return f"{rows} of {written.release}; left out: {left_out or 'nothing'}"


def _parts(batches: Iterator[pa.RecordBatch]) -> Iterator[Iterable[pa.RecordBatch]]:
    """Yield the batches of each file, until it has PART_ROWS rows; batches are not split."""

    def one(first: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        rows = 0
        for batch in chain([first], batches):
            yield batch
            rows += batch.num_rows
            if rows >= PART_ROWS:
                return

    for first in batches:
        yield one(first)


def _stem(manifest: Manifest) -> str:
    return f"grounding-{manifest.id}-"


def _own(folder: Path, manifest: Manifest) -> list[Path]:
    """Return existing parts of this release's corpus, complete or partial; raise FolderTaken for other files."""
    if folder.exists() and not folder.is_dir():
        raise FolderTaken(f"--output {folder} is a file; give a folder")
    part = re.compile(re.escape(_stem(manifest)) + r"\d{5}\.parquet")
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    if folder / MANIFEST in there and (held := _held(folder / MANIFEST)) != (manifest.id, manifest.trie.sha256):
        what = "a manifest.json that is not of a corpus" if held is None else f"the corpus of {held[0]} ({held[1][:8]})"
        raise FolderTaken(
            f"--output {folder} contains {what}, not that of {manifest.id} ({manifest.trie.sha256[:8]}); "
            "give an empty folder"
        )
    for path in there:
        if path.name not in (MANIFEST, DRAFT) and not part.fullmatch(path.name):
            raise FolderTaken(f"--output {folder} contains {path.name}; give an empty folder")
    return [path for path in there if part.fullmatch(path.name)]


def _held(path: Path) -> tuple[str, str] | None:
    """Return the release and trie hash of a corpus manifest; None if the file is not such a manifest."""
    try:
        found = json.loads(path.read_text())
        return (found["release"], found["trie_sha256"]) if found["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError):
        return None
