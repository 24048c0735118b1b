"""All that may be removed from a lake: files of tables, blobs, sequences, and what stopped writers left."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

import pyarrow.compute as pc
import pyarrow.dataset as ds

from storage.files.data_files import DataFile
from storage.files.store import WRITING, ListedFile
from storage.files.table_log import Log
from storage.files.trim import Trim
from storage.lake import Lake
from storage.releases.integrity import model_blobs, pinned_blobs
from storage.releases.manifest import Manifest
from storage.releases.models import Model
from storage.retention.tables import Garbage, drafts, table_garbage
from storage.runs import beats
from storage.runs import lease as leases
from storage.schemas import TABLES

BLOBS, TRAINING, RUN_LOGS, FIGURES = "blobs", "training", "logs", "tensorboard"
"""Folders of a lake beside those of its tables."""
ALERTS, ERASING = "watch", "erasing"
"""Folders with the problems that were told, and with the ids of erasures that have not ended."""
SMALL_FILES = (leases.FOLDER, beats.FOLDER, ALERTS, ERASING)
"""Folders of small files that runs write while they work: one that is killed meanwhile leaves a draft."""
NAMED_BY_NOTHING = "blobs that nothing names"


@dataclass(frozen=True)
class Needs:
    """Releases and models whose files stay, by names, of all that were recorded: `staying`, and `leaving` ones.

    Of what is leaving, files may be gone already, because an earlier grace period was shorter. What was written since
    the `cutoff` stays too. Abandoned `trainings` go if they may.
    """

    staying: frozenset[str]
    leaving: frozenset[str]
    manifests: tuple[Manifest, ...]
    models: tuple[Model, ...]
    cutoff: datetime
    trainings: bool

    @property
    def cutoff_ms(self) -> int:
        return int(self.cutoff.timestamp() * 1000)

    def versions(self, table: str, of: frozenset[str]) -> set[int]:
        """Return the versions of a table that some releases pin, but for -1, which stands for no table."""
        pinned = (each.versions.get(table, -1) for each in self.manifests if each.id in of)
        return {version for version in pinned if version >= 0}

    def blobs(self) -> set[str]:
        """Return the blobs that are needed."""
        return {digest for owner, _, digest in self._named() if owner in self.staying | self.leaving}

    def kinds(self) -> dict[str, str]:
        """Return the kind of each blob that a recorded release or model names."""
        return {digest: what.split()[0] for _, what, digest in self._named()}

    def _named(self) -> Iterator[tuple[str, str, str]]:
        """Yield (release or model, description, sha256) of all blobs."""
        for manifest in self.manifests:
            yield from ((manifest.id, what, digest) for what, digest in pinned_blobs(manifest))
        for model in self.models:
            yield from ((model.id, what, digest) for what, digest in model_blobs(model))


class Listing:
    """The files of a lake, listed once, to see what goes for several needs."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._tables = [table for table in TABLES if lake.exists(table)]

    @cached_property
    def _logs(self) -> dict[str, Log]:
        return {table: Log(self._lake.table_files(table), table) for table in self._tables}

    @cached_property
    def _files(self) -> dict[str, list[ListedFile]]:
        return {table: self._lake.table_files(table).found() for table in self._tables}

    @cached_property
    def _blobs(self) -> list[ListedFile]:
        return self._lake.files.found(BLOBS)

    @cached_property
    def _pictures(self) -> set[str]:
        return pictures(self._lake)

    def garbage(self, needs: Needs) -> tuple[list[Garbage], dict[str, Trim]]:
        """Return what may go, by path below the lake, and the records of logs to write before.

        Raise DataCorrupt if a log is damaged.
        """
        found, trims = list[Garbage](), dict[str, Trim]()
        for table, log in self._logs.items():
            place = self._lake.table_files(table)
            leaving = {each for each in needs.versions(table, needs.leaving) if log.opens(each)}
            needed = needs.versions(table, needs.staying)
            part = table_garbage(log, place, self._files[table], needed, leaving, needs.cutoff_ms)
            found += [replace(each, path=f"{table}/{each.path}") for each in part.files]
            if part.trim is not None:
                trims[table] = part.trim
        found += self._garbage_blobs(needs)
        beside = self._lake.files.found(recursive=False)
        for listed in (self._blobs, beside, *(self._lake.files.found(folder) for folder in SMALL_FILES)):
            found += drafts(listed, needs.cutoff_ms)
        found += self._logs_of_runs(needs.cutoff_ms)
        found += self._figures(needs)
        if needs.trainings:
            found += self._trainings(needs.cutoff_ms)
        return found, trims

    def _logs_of_runs(self, cutoff_ms: int) -> Iterator[Garbage]:
        for each in self._lake.files.found(RUN_LOGS):
            if each.changed_ns < cutoff_ms * 1_000_000:
                yield Garbage("logs of failed runs", each.path, each.size)

    def _figures(self, needs: Needs) -> Iterator[Garbage]:
        """Yield figures of trainings whose model, or whose codebook, no model or release that stays has."""
        named = needs.staying | needs.leaving
        stay = {model.key for model in needs.models if model.id in named}
        stay |= {each.codebook.fitted_by for each in needs.manifests if each.id in named}
        for each in self._lake.files.found(FIGURES):
            wanted = each.path.split("/")[1] in stay and not each.name.startswith(WRITING)
            if not wanted and each.changed_ns < needs.cutoff_ms * 1_000_000:
                yield Garbage("figures of trainings whose result is gone", each.path, each.size)

    def _garbage_blobs(self, needs: Needs) -> Iterator[Garbage]:
        needed, kinds = needs.blobs() | self._pictures, needs.kinds()
        for file in self._blobs:
            old = file.changed_ns < needs.cutoff_ms * 1_000_000
            if len(file.name) == 64 and file.name not in needed and old:
                kind = kinds.get(file.name)
                named = NAMED_BY_NOTHING if kind is None else f"blobs of retired releases and models: {kind}"
                yield Garbage(named, file.path, file.size, unnamed=True)

    def _trainings(self, cutoff_ms: int) -> Iterator[Garbage]:
        for folder in self._lake.files.folders(TRAINING):
            files = self._lake.files.found(folder)
            if all(each.changed_ns < cutoff_ms * 1_000_000 for each in files):
                yield from (Garbage("trainings that were abandoned", each.path, each.size) for each in files)


def erasing(lake: Lake) -> bool:
    """Return whether an erasure has not ended: entries and checkpoints of a log may name different files meanwhile."""
    return any(each.name.endswith(".json") for each in lake.files.found(ERASING))


def pictures(lake: Lake) -> set[str]:
    """Return the hashes of the pictures of all revisions of items."""
    found = set[str]()
    for batch in lake.batches("items", ["images"], ds.scalar(True)) if lake.exists("items") else ():
        found.update(pc.unique(pc.list_flatten(batch.column("images"))).to_pylist())
    return found


def former_vectors(lake: Lake, needs: Needs) -> dict[tuple[str, ...], list[DataFile]]:
    """Return the files of the newest version of `vectors`, by partition, that no release under `needs` was made with.

    A partition has the vectors of one fingerprint: of a fusion, or of an encoder. Those that were written since the
    cutoff stay.
    """
    if not lake.exists("vectors"):
        return {}
    manifests = [each for each in needs.manifests if each.id in needs.staying | needs.leaving]
    used = {each.fusion.fingerprint for each in manifests}
    used |= {encoder.fingerprint for each in manifests for encoder in each.encoders.values()}
    found: dict[tuple[str, ...], list[DataFile]] = {}
    for file in lake.data_files("vectors"):
        if file.partition["fingerprint"] not in used:
            found.setdefault((file.partition["modality"], file.partition["fingerprint"]), []).append(file)
    return {each: files for each, files in found.items() if max(file.changed_ms for file in files) < needs.cutoff_ms}


def old_sequences(lake: Lake, gone: Iterable[str]) -> Mapping[str, int]:
    """Return the files, with their sizes, of the newest version of `sequences` that are of releases which are gone."""
    releases = set(gone)
    files = lake.data_files("sequences")
    return {each.path: each.size for each in files if str(each.partition["release"]).split("-in-")[0] in releases}
