"""Findings of a `lake gc`, in lines and as a record: what stays and why, what goes, by kind, with files and bytes."""

from collections.abc import Iterable, Iterator
from typing import Any

from storage.retention.collect import Collected
from storage.retention.tables import Garbage


def lines(found: Collected, removed: bool) -> Iterator[str]:
    """Yield the lines to print."""
    for kind, kept in (("releases", found.kept.releases), ("models", found.kept.models)):
        yield f"{len(kept):,} {kind} stay"
        yield from (f"    {name}  {why}" for name, why in sorted(kept.items()))
    if found.running:
        yield f"running: {', '.join(found.running)}. What was written or retired since the first of them began stays"
    done, to_do = ("retired", "removed") if removed else ("would be retired", "would be removed")
    yield f"{len(found.retired):,} releases and models {done}{_named(found.retired)}"
    yield from _by_kind(found.garbage, to_do)
    yield from (f"{count:,} small data files of table {table!r} were joined" for table, count in found.joined.items())
    if found.former_vectors:
        files, were = found.former_vectors, "are" if removed else "would be"
        yield (
            f"{len(files):,} files, {_bytes(files.values())}, of vectors of former fusions and encoders {were} out of "
            "their table: they go when no release that stays pins a version with them"
        )
    if found.later:
        when = (
            f"goes with a later `sidmill lake gc`, when {len(found.leaving):,} releases and models have been retired "
        )
        yield from _by_kind(found.later, f"{when}for the grace period")
    if not removed and (found.retired or found.garbage or found.former_vectors):
        yield "Nothing was changed. Add --yes to retire and remove."


def as_record(found: Collected, removed: bool) -> dict[str, Any]:
    """Return the record for `sidmill lake gc --json`."""
    return {
        "done": removed,
        "kept": {"releases": dict(found.kept.releases), "models": dict(found.kept.models)},
        "running": list(found.running),
        "retired": list(found.retired),
        "leaving": {name: at.isoformat() for name, at in sorted(found.leaving.items())},
        "cutoff": found.cutoff.isoformat(),
        "joined": dict(found.joined),
        "former_vectors": {"files": len(found.former_vectors), "bytes": sum(found.former_vectors.values())},
        "removed": _kinds(found.garbage),
        "later": _kinds(found.later),
    }


def _named(names: tuple[str, ...]) -> str:
    if len(names) <= 3:
        return f": {', '.join(names)}" if names else ""
    return f": {names[0]}, {names[1]}, ..., {names[-1]}"


def _by_kind(garbage: tuple[Garbage, ...], verb: str) -> Iterator[str]:
    yield f"{len(garbage):,} files, {_bytes(each.size for each in garbage)}, {verb}"
    for kind, counted in _kinds(garbage).items():
        yield f"    {kind}: {counted['files']:,} files, {_bytes([counted['bytes']])}"


def _kinds(garbage: tuple[Garbage, ...]) -> dict[str, dict[str, int]]:
    """Return the number of files and their bytes by kind."""
    kinds: dict[str, dict[str, int]] = {}
    for each in garbage:
        counted = kinds.setdefault(each.kind, {"files": 0, "bytes": 0})
        counted["files"] += 1
        counted["bytes"] += each.size
    return dict(sorted(kinds.items()))


def _bytes(sizes: Iterable[int]) -> str:
    size = float(sum(sizes))
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
