"""Publishing: the release and model that an alias points to, moved by people and by runs, back by rollbacks.

An alias points to a pair {"release", "model"}. Its pointer's history is the record of all publications, so "published"
and "the alias moved there" are one atomic fact. Rules:

- A run publishes only while the alias is where the run read it (`decided_on`); else it decides again.
- Only a rollback takes the alias back in time: to an earlier as-of time, or to earlier versions of the catalogue or
  the log.
- A rollback holds the alias, as `hold` does: runs publish nothing until `publish` or `lift`.
- The new target of the alias is checked to exist undamaged before the alias moves.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime

import pyarrow as pa

from storage.commit import Provenance
from storage.errors import GateBlocked, LakeNotFound, PointerMoved, ProductionHeld, PublishRefused, StaleCandidate
from storage.lake import Lake
from storage.releases.catalogue import assigned_items, deleted_items
from storage.releases.integrity import Effort, check_pinned
from storage.releases.manifest import Manifest
from storage.releases.models import model_vocabulary, newest_model
from storage.releases.pointers import Pointer, Published, move_pointer, pointer_history, read_pointer, targets_of
from storage.releases.releases import PRODUCTION, published_assignments, read_release, releases
from storage.releases.standing import require_staying

PUBLISH, ROLLBACK, HOLD, LIFT = "publish", "rollback", "hold", "lift"
"""Notes of moves by people; the note of a run's move is the kind of the run."""
# Tables whose versions must not go back except by a rollback.
CUT_OFF_TABLES = ("items", "interactions")


MayBeWorse = Callable[[Manifest], bool]
"""Whether a model that is worse than a baseline may be chosen for a release, by the gate of models in its recipe."""


def _never(manifest: Manifest) -> bool:
    return False


def _anything(rows: pa.Table) -> None:
    pass


@dataclass(frozen=True)
class Publication:
    """A publication: a release, with a named model, with a model that is chosen, or `without_model`.

    `note` says who published. `effort` limits the hashing of the pinned files; None hashes all of them. `require` gets
    the rows of the table of pointers that the move is committed on, and may raise to refuse it.
    """

    release: str
    note: str = PUBLISH
    model: str | None = None
    without_model: bool = False
    may_be_worse: MayBeWorse = _never
    effort: Effort | None = None
    require: Callable[[pa.Table], None] = _anything


def publish(lake: Lake, publication: Publication, provenance: Provenance, alias: str = PRODUCTION) -> Published:
    """Point `alias` at (release, model) by a person's decision; a hold is lifted.

    Without a model, the newest model that was trained for this release and is not worse than a baseline is used (if it
    `may_be_worse`, the newest one); once it was published with the release, the last model published with it; else the
    current one, if it speaks the vocabulary.

    Refused are: a candidate with a failed blocking gate (GateBlocked); one that lacks a segment published since it was
    made, or an item of the release it would replace, or that is of an earlier time (StaleCandidate); a model of another
    vocabulary; and leaving the alias without the model it has, unless `without_model` is set (PublishRefused).
    """
    return _publish(lake, publication, pointer_history(lake, alias), provenance)


def publish_by_run(lake: Lake, publication: Publication, decided_on: Pointer, provenance: Provenance) -> Published:
    """Publish as `publish` does, for a run that decided on the pointer `decided_on`.

    Raise PointerMoved if the alias has moved since, and ProductionHeld if it is held.
    """
    history = pointer_history(lake, decided_on.name)
    if history[-1].sequence != decided_on.sequence:
        raise PointerMoved(
            f"another run or command moved {decided_on.name!r} meanwhile: it was {_pair(decided_on)} when this run "
            f"read it and is {_pair(history[-1])} now. Nothing was published; run the command again."
        )
    held = hold_of(history)
    if held is not None:
        raise ProductionHeld(f"{held} {publication.release} stays a candidate; {_lifting(publication.release)}")
    return _publish(lake, publication, history, provenance)


def _publish(lake: Lake, publication: Publication, history: list[Pointer], provenance: Provenance) -> Published:
    before, manifest = history[-1], read_release(lake, publication.release)
    _check_gates(manifest)
    _check_not_stale(lake, manifest, history)
    chosen = publication.model
    if chosen is None and not publication.without_model:
        chosen = _default_model(lake, manifest, history, publication.may_be_worse)
    elif chosen is not None:
        _check_vocabulary(lake, manifest, chosen)
    current = before.target
    if chosen is None and current is not None and current.model and not publication.without_model:
        raise PublishRefused(
            f"publishing {manifest.id} would leave {before.name!r} without a generator: {current.model} was "
            f"trained for another vocabulary. Train one first with `sidmill run train --release {manifest.id}`, or "
            f"publish without one: `sidmill release publish {manifest.id} --without-model`."
        )
    wanted = Published(manifest.id, chosen)
    if current == wanted and hold_of(history) is None:
        return wanted
    check_pinned(lake, manifest, chosen, provenance, publication.effort)
    return _move(lake, before, wanted, publication.note, provenance, publication.require)


def rollback(
    lake: Lake,
    provenance: Provenance,
    to: str | None = None,
    alias: str = PRODUCTION,
    may_be_worse: MayBeWorse = _never,
) -> Published:
    """Point `alias` back at a release that was published before, with its model, and hold it there.

    SIDs published since stay taken. Without `to`, the target is the release published before the current one and not
    undone by a rollback: each rollback goes further back. The model is the last one published with that release, else
    the one that `publish` chooses.
    """
    history = pointer_history(lake, alias)
    now = history[-1]
    current = now.target
    if current is None:
        raise LakeNotFound(f"{alias!r} points to nothing yet; publish a release first.")
    if to == current.release:
        return current
    available = {manifest.id for manifest in releases(lake)}
    if to is not None and to not in available and any(target.release == to for target in targets_of(history)):
        read_release(lake, to)  # says when it was retired
    ever = [target for target in targets_of(history[:-1]) if target.release in available - {current.release}]
    earlier = [target for target in _not_undone(history) if target in ever]
    wanted = earlier if to is None else [target for target in ever if target.release == to]
    if not wanted:
        known = ", ".join(sorted({target.release for target in ever}))
        choice = (
            f"choose one that was published before with `--to RELEASE`: {known}"
            if known
            else "no other release was ever published, or none of them stays"
        )
        raise PublishRefused(
            f"cannot roll {alias!r} back from {current.release} to {to or 'an earlier release'}: {choice}. "
            f"To change only the model of {current.release}, run `sidmill release publish {current.release} --model "
            "MODEL`."
        )
    manifest = read_release(lake, wanted[-1].release)
    model = wanted[-1].model or _default_model(lake, manifest, history, may_be_worse)
    check_pinned(lake, manifest, model, provenance)
    return _move(lake, now, Published(manifest.id, model), ROLLBACK, provenance)


def _move(
    lake: Lake,
    before: Pointer,
    target: Published,
    note: str,
    provenance: Provenance,
    require: Callable[[pa.Table], None] = _anything,
) -> Published:
    """Point an alias at a release and a model, neither of which was retired meanwhile."""

    def check(rows: pa.Table) -> None:
        require(rows)
        require_staying(rows, target.release, target.model)

    move_pointer(lake, before, asdict(target), note, provenance, check)
    return target


def hold(lake: Lake, provenance: Provenance, reason: str = "", alias: str = PRODUCTION) -> None:
    """Prevent runs from moving `alias` until `publish` or `lift`."""
    now = read_pointer(lake, alias)
    if now.value is None:
        raise LakeNotFound(f"{alias!r} points to nothing yet; publish a release first.")
    move_pointer(lake, now, now.value, f"{HOLD}: {reason}" if reason else HOLD, provenance)


def lift(lake: Lake, provenance: Provenance, alias: str = PRODUCTION) -> bool:
    """Let runs move `alias` again; return False if nothing holds it."""
    history = pointer_history(lake, alias)
    if hold_of(history) is None:
        return False
    move_pointer(lake, history[-1], history[-1].value, LIFT, provenance)
    return True


def hold_of(history: list[Pointer]) -> str | None:
    """Return a sentence on why runs may not move an alias; None if they may."""
    last = history[-1]
    kind, _, reason = last.note.partition(": ")
    if kind not in (ROLLBACK, HOLD) or last.at is None or last.target is None:
        return None
    release, at = last.target.release, _time(last.at)
    state = f"was rolled back to {release} on {at}" if kind == ROLLBACK else f"has been held at {release} since {at}"
    given = f" ({reason})" if reason else ""
    return f"{last.name} {state}{given}, so runs do not move it."


def held(lake: Lake, alias: str = PRODUCTION) -> str | None:
    """Return `hold_of` the alias as it is now."""
    return hold_of(pointer_history(lake, alias))


def _lifting(release: str) -> str:
    return (
        f"`sidmill release publish {release}` publishes it now; `sidmill release hold --lift` lets the next run "
        "publish again."
    )


def was_published(lake: Lake, model: str, alias: str = PRODUCTION) -> bool:
    """Return whether an alias ever pointed to a model."""
    return any(target.model == model for target in targets_of(pointer_history(lake, alias)))


def _not_undone(history: list[Pointer]) -> list[Published]:
    """Return the pairs published up to the alias's target, without those undone by a rollback."""
    kept = list[Published]()
    for move in history:
        if move.target is None:
            continue
        places = [place for place, target in enumerate(kept) if target.release == move.target.release]
        if move.note == ROLLBACK and places:
            del kept[places[-1] :]
        kept.append(move.target)
    return kept


def _check_gates(manifest: Manifest) -> None:
    if manifest.blocked_by:
        name = manifest.blocked_by[0].name
        once = f"--set {name if name.startswith('checks.') else f'gates.{name}'}.severity=warn"
        failed = "; ".join(
            f"{gate.name} = {gate.value:g} (limit {gate.limit:g}) {gate.detail}".strip() for gate in manifest.blocked_by
        )
        raise GateBlocked(
            f"{manifest.id} stays a candidate, because gates failed: {failed}. Inspect it with `sidmill release show "
            f"{manifest.id}`. What was read stays in the lake. If it is wrong, deliver the right rows to the next run. "
            f"If it is right, run again and let it pass once with {once}."
        )


def _check_not_stale(lake: Lake, manifest: Manifest, history: list[Pointer]) -> None:
    ever = published_assignments(lake, manifest.codebook.id, history[-1].name)
    lost = [assignment for assignment in ever if assignment not in manifest.assignments]
    if lost:
        raise StaleCandidate(
            f"{manifest.id} lacks {len(lost)} assignment(s) that were published under its codebook after it was made "
            f"({', '.join(lost[:3])}): publishing it would free SIDs that are taken. {_catching_up(manifest)}"
            f"{_going_back(manifest, history)}"
        )
    current = history[-1].target
    if current is None or current.release == manifest.id:
        return
    before = read_release(lake, current.release)
    missing: set[str] = set()
    if before.codebook.id != manifest.codebook.id:
        missing = assigned_items(lake, before) - assigned_items(lake, manifest) - deleted_items(lake)
    if missing:
        raise StaleCandidate(
            f"{manifest.id} lacks {len(missing)} item(s) of {before.id} (for example {sorted(missing)[0]!r}), which "
            f"arrived while {manifest.id} was made. {_catching_up(manifest)}"
        )
    _check_not_earlier(manifest, before, history)


def _check_not_earlier(manifest: Manifest, before: Manifest, history: list[Pointer]) -> None:
    """Refuse a release of an earlier time: it would undo published changes and deletions."""
    if earlier := is_earlier(manifest, before):
        raise StaleCandidate(
            f"{manifest.id} sees an earlier state of the lake than {before.id}: it lacks items, changes or deletions "
            f"that arrived later ({'; '.join(earlier)}). {_catching_up(manifest)}"
            f"{_going_back(manifest, history)}"
        )


def is_earlier(manifest: Manifest, before: Manifest) -> list[str]:
    """Return the respects in which a release is earlier than another; empty if there are none."""
    earlier = [
        f"version {manifest.versions.get(table, 'none')} of table {table} instead of {before.versions[table]}"
        for table in CUT_OFF_TABLES
        if manifest.versions.get(table, -1) < before.versions.get(table, -1)
    ]
    if manifest.as_of < before.as_of:
        earlier.append(f"as of {_time(manifest.as_of)} instead of {_time(before.as_of)}")
    return earlier


def _catching_up(manifest: Manifest) -> str:
    return f"Catch up with `sidmill run nightly --parent {manifest.id}`, then publish the release which that run makes."


def _going_back(manifest: Manifest, history: list[Pointer]) -> str:
    """Return how to go back to a release that was published before; an empty text for another."""
    if not any(target.release == manifest.id for target in targets_of(history)):
        return ""
    return f" To go back on purpose, run `sidmill release rollback --to {manifest.id}`."


def _default_model(lake: Lake, manifest: Manifest, history: list[Pointer], may_be_worse: MayBeWorse) -> str | None:
    """Return the newest model trained for a release that its gate allows.

    Once that was published with the release, return the last one published with it; else the current one. Return None
    if that one does not speak the vocabulary of the release.
    """
    with_it = [target.model for target in targets_of(history) if target.release == manifest.id]
    newest = newest_model(lake, manifest.id, worse_too=may_be_worse(manifest))
    if newest is None or newest in with_it:
        last = next((model for model in reversed(with_it) if model is not None), None)
        current = history[-1].target
        newest = last or (current.model if current is not None else None)
    if newest is None or model_vocabulary(lake, newest) != manifest.codebook.vocabulary:
        return None
    return newest


def _check_vocabulary(lake: Lake, manifest: Manifest, model: str) -> None:
    vocabulary = model_vocabulary(lake, model)
    if vocabulary != manifest.codebook.vocabulary:
        raise PublishRefused(
            f"model {model} was trained for vocabulary {vocabulary}, and {manifest.id} has "
            f"{manifest.codebook.vocabulary}. "
            f"Train a model with `sidmill run train --release {manifest.id}`, or publish without a model."
        )


def _pair(pointer: Pointer) -> str:
    target = pointer.target
    return f"({target.release}, {target.model or 'no model'})" if target is not None else "unset"


def _time(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC"
