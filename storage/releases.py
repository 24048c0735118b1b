"""Releases: record a candidate, publish it, roll back, and know what was ever published under a codebook.

An alias points to a pair {"release", "model"}. Its pointer's history is the record of what was ever published,
so "published" and "the alias moved there" are one atomic fact.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.catalogue import assigned_items, deleted_items
from storage.commit import Provenance, swap
from storage.errors import GateBlocked, LakeNotFound, PointerMoved, PublishRefused, StaleCandidate
from storage.lake import Lake
from storage.manifest import Manifest
from storage.models import model_vocabulary, newest_model
from storage.pointers import Pointer, move_pointer, pointer_history, read_pointer
from storage.schemas import RELEASES

PRODUCTION = "production"
ROLLBACK = "rollback"


@dataclass(frozen=True)
class Published:
    """What an alias points to."""

    release: str
    model: str | None


def record_release(
    lake: Lake, make: Callable[[str], Manifest], key: str, provenance: Provenance
) -> tuple[Manifest, bool]:
    """Record the candidate that `make(id)` describes under the next free id, or return the one made with `key`."""

    def decide(rows: pa.Table) -> pa.Table | None:
        if key in rows.column("key").to_pylist():
            return None
        manifest = make(f"r-{rows.num_rows + 1:06d}")
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
    found = rows.filter(pc.equal(rows["key"], key))
    return Manifest.model_validate_json(found.column("manifest")[0].as_py()), written


def find_release_by_key(lake: Lake, key: str) -> Manifest | None:
    """The candidate or release that was made with this idempotency key."""
    return next((manifest for manifest in releases(lake) if manifest.key == key), None)


def releases(lake: Lake) -> list[Manifest]:
    """All candidates and releases, oldest first."""
    rows = lake.read("releases", columns=["id", "manifest"]).sort_by("id")
    return [Manifest.model_validate_json(text) for text in rows.column("manifest").to_pylist()]


def read_release(lake: Lake, name: str) -> Manifest:
    """A release by id or by alias; LakeNotFound lists what there is."""
    found = releases(lake)
    target = name
    if not name.startswith("r-"):
        pointed = published(lake, name)
        target = pointed.release if pointed else name
    for manifest in found:
        if manifest.id == target:
            return manifest
    known = ", ".join(manifest.id for manifest in found[-10:]) or "none"
    remedy = "" if found else " `sidmill run bootstrap` makes the first one."
    raise LakeNotFound(f"the lake {lake.uri} has no release or alias {name!r}; releases: {known}.{remedy}")


def published(lake: Lake, alias: str = PRODUCTION) -> Published | None:
    """The pair an alias points to now, None before the first publish."""
    value = read_pointer(lake, alias).value
    return Published(value["release"], value["model"]) if value else None


def published_assignments(lake: Lake, codebook: str, alias: str = PRODUCTION) -> list[str]:
    """Every assignment ever published under `codebook`, rolled-back releases included, in order of publication."""
    return _assignments(releases(lake), codebook, pointer_history(lake, alias))


def _assignments(manifests: list[Manifest], codebook: str, history: list[Pointer]) -> list[str]:
    by_id = {manifest.id: manifest for manifest in manifests}
    found: dict[str, None] = {}
    for move in history:
        manifest = by_id.get(move.value["release"]) if move.value else None
        if manifest is not None and manifest.codebook.id == codebook:
            found.update(dict.fromkeys(manifest.assignments))
    return list(found)


def publish(
    lake: Lake,
    release: str,
    provenance: Provenance,
    model: str | None = None,
    note: str = "publish",
    alias: str = PRODUCTION,
    replacing: Published | None = None,
) -> Published:
    """Point `alias` at (release, model).

    Without `model` it is the newest one that was trained for this release, once it was published with it the last one
    that was, else the current one if it speaks the vocabulary.

    Refused: a candidate with a failed blocking gate (GateBlocked); one that lacks a segment published since it was
    made, or an item of the release it would replace (StaleCandidate); a model that speaks another vocabulary.
    Two publishers cannot both succeed from the same state: the alias is moved by compare-and-swap. With `replacing`,
    what the decision to publish was made on, PointerMoved where the alias points to something else by now.
    """
    while True:
        history = pointer_history(lake, alias)
        before = history[-1]
        if replacing is not None and before.value != asdict(replacing):
            raise PointerMoved(f"{alias!r} was {replacing} when read and is {before.value} now; decide anew.")
        manifest = read_release(lake, release)
        _check_gates(manifest)
        _check_not_stale(lake, manifest, alias)
        chosen = _choose_model(lake, manifest, model, history)
        value = {"release": manifest.id, "model": chosen}
        if before.value == value:
            return Published(manifest.id, chosen)
        if read_pointer(lake, alias).sequence == before.sequence:
            move_pointer(lake, before, value, note, provenance)
            return Published(manifest.id, chosen)


def rollback(lake: Lake, provenance: Provenance, to: str | None = None, alias: str = PRODUCTION) -> Published:
    """Point `alias` back at a release that was published before, with its model; SIDs published since stay taken.

    Without `to` it is what was published before the current release and was not rolled away from: each rollback goes
    further back. The model is the last one that was published with that release, else as `publish` chooses it.
    Nothing moves where the alias points to `to` already.
    """
    history = pointer_history(lake, alias)
    now = history[-1]
    if now.value is None:
        raise LakeNotFound(f"{alias!r} points to nothing yet; publish a release first.")
    if to == now.value["release"]:
        return Published(**now.value)
    ever = [move.value for move in history[1:-1] if move.value["release"] != now.value["release"]]
    standing = [value for value in _standing(history) if value["release"] != now.value["release"]]
    wanted = standing if to is None else [value for value in ever if value["release"] == to]
    if not wanted:
        known = ", ".join(sorted({value["release"] for value in ever}))
        choice = f"published at some time: {known}; `--to RELEASE` chooses one" if known else "no other was published"
        here = now.value["release"]
        raise PublishRefused(
            f"cannot roll {alias!r} back from {here} to {to or 'an earlier release'}: {choice}. "
            f"`sidmill release publish {here} --model MODEL` gives {here} another model."
        )
    manifest = read_release(lake, wanted[-1]["release"])
    model = wanted[-1]["model"] or _choose_model(lake, manifest, None, history)
    value = {"release": manifest.id, "model": model}
    move_pointer(lake, now, value, ROLLBACK, provenance)
    return Published(manifest.id, model)


def _standing(history: list[Pointer]) -> list[dict[str, Any]]:
    """The pairs that were published up to where the alias points, without those that were rolled away from."""
    standing: list[dict[str, Any]] = []
    for move in history[1:]:
        places = [place for place, value in enumerate(standing) if value["release"] == move.value["release"]]
        if move.note == ROLLBACK and places:
            del standing[places[-1] :]
        standing.append(move.value)
    return standing


def _check_gates(manifest: Manifest) -> None:
    if manifest.blocked_by:
        failed = "; ".join(
            f"{gate.name} = {gate.value:g} (limit {gate.limit:g}) {gate.detail}".strip() for gate in manifest.blocked_by
        )
        raise GateBlocked(
            f"{manifest.id} stays a candidate: {failed}. Inspect it with `sidmill release show {manifest.id}`; "
            "mend the input or the recipe and run again."
        )


def _check_not_stale(lake: Lake, manifest: Manifest, alias: str) -> None:
    ever = published_assignments(lake, manifest.codebook.id, alias)
    lost = [assignment for assignment in ever if assignment not in manifest.assignments]
    if lost:
        raise StaleCandidate(
            f"{manifest.id} was made before {len(lost)} assignment(s) published under its codebook "
            f"({', '.join(lost[:3])}): publishing it would free SIDs that are taken. Run its flow again."
        )
    current = published(lake, alias)
    if current is None or current.release == manifest.id:
        return
    before = read_release(lake, current.release)
    if before.codebook.id == manifest.codebook.id:
        return
    missing = assigned_items(lake, before) - assigned_items(lake, manifest) - deleted_items(lake)
    if missing:
        raise StaleCandidate(
            f"{manifest.id} lacks {len(missing)} item(s) of {before.id} (for example {sorted(missing)[0]!r}): they "
            f"arrived while it was made. Catch up with `sidmill run nightly --parent {manifest.id}`, "
            "then publish the release that makes."
        )


def _unasked_model(lake: Lake, manifest: Manifest, history: list[Pointer]) -> str | None:
    """The newest model trained for a release; once that was published with it, the last one that was; else the
    current one."""
    with_it = [move.value["model"] for move in history[1:] if move.value["release"] == manifest.id]
    newest = newest_model(lake, manifest.id)
    if newest is not None and newest not in with_it:
        return newest
    last = next((model for model in reversed(with_it) if model is not None), None)
    return last or (history[-1].value["model"] if history[-1].value else None)


def was_published(lake: Lake, model: str, alias: str = PRODUCTION) -> bool:
    """Whether an alias ever pointed to a model."""
    return any(move.value["model"] == model for move in pointer_history(lake, alias)[1:])


def _choose_model(lake: Lake, manifest: Manifest, model: str | None, history: list[Pointer]) -> str | None:
    candidate = model or _unasked_model(lake, manifest, history)
    if candidate is None:
        return None
    vocabulary = model_vocabulary(lake, candidate)
    if vocabulary == manifest.codebook.vocabulary:
        return candidate
    if model is None:
        return None  # a kept model that does not speak the new vocabulary is let go, not mixed
    raise PublishRefused(
        f"model {model} speaks vocabulary {vocabulary}, {manifest.id} speaks {manifest.codebook.vocabulary}; "
        f"train one with `sidmill run train --release {manifest.id}` or publish without a model."
    )
