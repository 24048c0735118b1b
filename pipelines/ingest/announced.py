"""A snapshot that an event announces: the sources of a night, with that one at the version that is named."""

from infra.addresses import without_secrets
from pipelines.registry import source_kind_of
from pipelines.sources.row import SourceError


def at_snapshot(snapshot: str | None, items: list[str], interactions: list[str]) -> tuple[list[str], list[str]]:
    """Return the addresses of sources, with that of the snapshot at its version; unchanged without a snapshot.

    Raise SourceError if the snapshot belongs to none of the sources, or its source has not reached it.
    """
    if not snapshot:
        return items, interactions
    read_at = {address: at for address in {*items, *interactions} if (at := _at(address, snapshot))}
    if not read_at:
        known = ", ".join(map(without_secrets, [*items, *interactions])) or "nothing"
        raise SourceError(
            f"the snapshot {without_secrets(snapshot)} is of no source that this night reads ({known}). Name one of "
            "them with its version, such as TABLE@v12, or send the event without a snapshot."
        )
    for address in sorted(set(read_at.values())):
        source_kind_of(address).check(address)
    return [read_at.get(each, each) for each in items], [read_at.get(each, each) for each in interactions]


def _at(address: str, snapshot: str) -> str | None:
    """Return an address at the version of a snapshot; None if that is not of this source."""
    if address == snapshot:
        return address
    at = source_kind_of(address).at_snapshot
    return None if at is None else at(address, snapshot)
