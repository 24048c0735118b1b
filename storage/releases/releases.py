"""Releases: record a candidate, read a release, and list the assignments ever published under a codebook.

Along a lineage, from parent to child, as-of times and pinned versions never go back.
"""

from collections.abc import Callable, Collection
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from storage.commit import Provenance, swap
from storage.errors import DataCorrupt, LakeNotFound, LineageBroken
from storage.lake import Lake
from storage.releases.manifest import Manifest
from storage.releases.pointers import Pointer, Published, pointer_history, read_pointer, targets_of
from storage.releases.standing import read_standing, retirement_of
from storage.schemas import RELEASES

PRODUCTION = "production"


def record_release(
    lake: Lake, make: Callable[[str], Manifest], key: str, provenance: Provenance
) -> tuple[Manifest, bool]:
    """Record the candidate that `make(id)` describes under the next free id, or return the one made with `key`.

    One that was retired is made again. Raise LineageBroken if it goes back behind its parent, or if its vectors have
    seen what it holds out.
    """
    retired = read_standing(lake).retired

    def made(rows: pa.Table) -> pa.Table:
        rows = rows.filter(pc.equal(rows["key"], key))
        return rows.filter(pc.invert(pc.is_in(rows["id"], pa.array(retired, pa.string()))))

    def decide(rows: pa.Table) -> pa.Table | None:
        if made(rows).num_rows:
            return None
        manifest = make(f"r-{rows.num_rows + 1:06d}")
        _check_lineage(manifest, rows)
        return pa.Table.from_pylist(
            [
                {
                    "id": manifest.id,
                    "key": key,
                    "kind": manifest.kind,
                    "parent": manifest.parent,
                    "codebook": manifest.codebook.id,
                    "manifest": manifest.model_dump_json(),
                    "at": manifest.created_at,
                    "run": provenance.run,
                }
            ],
            schema=RELEASES.schema,
        )

    rows, written = swap(lake, "releases", decide, provenance)
    return Manifest.model_validate_json(made(rows).column("manifest")[0].as_py()), written


def _check_lineage(manifest: Manifest, rows: pa.Table) -> None:
    if manifest.fit_cutoff > manifest.cutoff:
        raise LineageBroken(
            f"the cutoff {manifest.cutoff.isoformat()} is too early: events from then on would be held out, but the "
            f"vectors of the candidate have seen events up to {manifest.fit_cutoff.isoformat()}. Give a --cutoff no "
            "earlier than that."
        )
    if manifest.parent is None:
        return
    found = rows.filter(pc.equal(rows["id"], manifest.parent)).column("manifest")
    parent = Manifest.model_validate_json(found[0].as_py())
    behind = [table for table, version in parent.versions.items() if manifest.versions.get(table, -1) < version]
    if behind or manifest.as_of < parent.as_of:
        raise LineageBroken(
            f"a candidate may not be earlier than its parent {parent.id}: it is as of {manifest.as_of.isoformat()} "
            f"and the parent as of {parent.as_of.isoformat()}; tables in an earlier version: "
            f"{', '.join(behind) or 'none'}. Run again without --as-of."
        )


def find_release_by_key(lake: Lake, key: str) -> Manifest | None:
    """Return the candidate or release that was made with this idempotency key and stays, or None."""
    return next((manifest for manifest in releases(lake) if manifest.key == key), None)


def recorded_releases(lake: Lake) -> list[Manifest]:
    """Return all candidates and releases that were ever recorded, retired ones too, oldest first."""
    return _manifests(lake.read("releases", columns=["id", "manifest"]), ())


def release_of_fit(lake: Lake, manifest: Manifest) -> Manifest:
    """Return the release whose fit a release goes on with: the newest of its line that is no night's."""
    rows = lake.read("releases", columns=["id", "kind", "parent", "manifest"])
    known = {row["id"]: row for row in rows.drop_columns(["manifest"]).to_pylist()}
    found = known.get(manifest.id)
    while found is not None and found["kind"] == "nightly" and found["parent"] in known:
        found = known[found["parent"]]
    if found is None or found["id"] == manifest.id:
        return manifest
    stored = rows.filter(pc.equal(rows["id"], found["id"]))["manifest"][0].as_py()  # also of one that was retired
    return Manifest.model_validate_json(stored)


def releases(lake: Lake) -> list[Manifest]:
    """Return all candidates and releases that can be read, oldest first: those that are not retired."""
    rows = lake.read("releases", columns=["id", "manifest"])
    return _manifests(rows, read_standing(lake).retired)


def _manifests(rows: pa.Table, retired: Collection[str]) -> list[Manifest]:
    found = rows.sort_by("id").to_pylist()
    return [Manifest.model_validate_json(row["manifest"]) for row in found if row["id"] not in retired]


def read_release(lake: Lake, name: str) -> Manifest:
    """Return a release by id or alias; LakeNotFound lists the existing ones. Raise Retired for one that is retired."""
    target, pointed = name, None
    if not name.startswith("r-"):
        pointed = published(lake, name)  # before the releases: what it names was recorded before the alias moved
        target = pointed.release if pointed else name
    found = releases(lake)
    for manifest in found:
        if manifest.id == target:
            return manifest
    retired = read_standing(lake).retired
    if target in retired:
        raise retirement_of(target, retired[target])
    if pointed is not None or (not found and lake.exists("pointers") and published(lake) is not None):
        raise DataCorrupt(
            f"the table 'releases' of the lake {lake.uri} does not have {target}, although releases were published: "
            "restore its folder from a backup of the lake (`sidmill lake restore`)."
        )
    known = ", ".join(manifest.id for manifest in found[-10:]) or "none"
    remedy = "" if found else " Make the first one with `sidmill run bootstrap`."
    raise LakeNotFound(f"the lake {lake.uri} has no release or alias {name!r}; newest releases: {known}.{remedy}")


def published(lake: Lake, alias: str = PRODUCTION) -> Published | None:
    """Return the pair an alias points to now, None before the first publish."""
    return read_pointer(lake, alias).target


def published_assignments(lake: Lake, codebook: str, alias: str = PRODUCTION) -> list[str]:
    """Return all assignments ever published under `codebook`, rolled-back ones too, in order of publication."""
    history = pointer_history(lake, alias)  # before the releases: those that it names were recorded before
    return _assignments(recorded_releases(lake), codebook, history)


def _assignments(manifests: list[Manifest], codebook: str, history: list[Pointer]) -> list[str]:
    by_id = {manifest.id: manifest for manifest in manifests}
    found: dict[str, None] = {}
    for target in targets_of(history):
        manifest = by_id.get(target.release)
        if manifest is not None and manifest.codebook.id == codebook:
            found.update(dict.fromkeys(manifest.assignments))
    return list(found)


def fit_cutoff_of(lake: Lake, assignments: tuple[str, ...]) -> datetime | None:
    """Return the latest event time that the vectors behind some segments of the SID table have seen.

    The release that made a segment, the first that lists it, gives its time. None if no release lists any.
    """
    wanted, latest = set(assignments), None
    for manifest in recorded_releases(lake):
        if wanted & set(manifest.assignments):
            latest = max(latest or manifest.fit_cutoff, manifest.fit_cutoff)
            wanted -= set(manifest.assignments)
    return latest
