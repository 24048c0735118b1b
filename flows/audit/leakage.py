"""`release audit`: change the events that a release holds out, build its products again, and compare.

Three lakes get the items, the vectors of contents and the log of a release: as they are, with other held-out events,
and with other events before the cutoff. A bootstrap under the release's recipe runs on each. The first two must agree
in everything that is made; the third shows that the audit would see a difference.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pyarrow.dataset as ds

from flows.bootstrap import bootstrap
from flows.gates.registry import GATES
from infra.scratch import ScratchFolder
from pipelines.event_log.visible_log import LogSlice
from pipelines.modalities import COLLABORATIVE
from pipelines.sequences import SequencesJob, build_sequences
from sidmill.release import open_trie
from storage.commit import Provenance, append
from storage.errors import LakeError
from storage.lake import Lake
from storage.releases.catalogue import deleted_items
from storage.releases.manifest import Manifest
from storage.releases.releases import PRODUCTION, read_release
from storage.schemas import TABLES

LogPart = Literal["held out", "seen"]
PRODUCTS = ("factors", "fusion", "codebook", "SIDs", "training sequences")


class LeakFound(LakeError):
    """Raised when held-out events decide something that is made."""


@dataclass(frozen=True)
class Changed:
    """Result of changing the events of a part of the log: their number, and the products that differ then."""

    part: LogPart
    events: int
    differ: tuple[str, ...]

    def __str__(self) -> str:
        same = [each for each in PRODUCTS if each not in self.differ]
        parts = [f"{', '.join(each)} {word}" for each, word in ((same, "the same"), (self.differ, "different")) if each]
        return f"{self.events:,} events {self.part} changed: {'; '.join(parts)}"


def audit_release(lake: Lake, release: str, say: Callable[[str], None]) -> list[Changed]:
    """Return what differs when held-out events are changed, and when seen events are.

    Raise ValueError if the release has no log or holds out nothing. Needs space for three copies of the release.
    """
    manifest = read_release(lake, release)
    log = LogSlice.of(manifest)
    held_out = 0 if log.version < 0 else lake.count("interactions", log.version, _visible(manifest, "held out"))
    if not held_out:
        raise ValueError(f"{manifest.id} holds out no event: there is nothing that could leak.")
    seen = lake.count("interactions", log.version, _visible(manifest, "seen"))
    with ScratchFolder("audit") as folder:
        say(f"{manifest.id} made anew, from its data and its recipe, three times below {folder}")
        plain = _products(lake, manifest, Path(folder) / "plain", None)
        found = []
        parts: tuple[tuple[LogPart, int], ...] = (("held out", held_out), ("seen", seen))
        for part, events in parts:
            other = _products(lake, manifest, Path(folder) / part.replace(" ", "-"), part)
            found.append(Changed(part, events, tuple(each for each in PRODUCTS if plain[each] != other[each])))
            say(str(found[-1]))
    return found


def require_no_leak(found: list[Changed]) -> None:
    """Raise LeakFound if a product differs when held-out events are changed."""
    for each in found:
        if each.part == "held out" and each.differ:
            raise LeakFound(
                f"held-out events decide {', '.join(each.differ)}: figures of this recipe say more than is known at "
                "the cutoff. Remove from the recipe what reads later events, such as a plug-in or vectors made of the "
                "whole log."
            )


def _visible(manifest: Manifest, part: LogPart) -> ds.Expression:
    arrived = ds.field("arrival_time") <= manifest.as_of
    before = ds.field("event_time") < manifest.cutoff
    return arrived & (before if part == "seen" else ~before)


def _products(lake: Lake, manifest: Manifest, folder: Path, part: LogPart | None) -> Mapping[str, str | None]:
    """Build the release in an empty lake, with the events of a part changed; return the hash of each of PRODUCTS."""
    scratch = Lake(str(folder))
    _copy(lake, scratch, manifest, part)
    warned = [f'gates.{name}={{severity="warn"}}' for name in GATES]
    recipe = {**manifest.recipe, "refit": None}
    bootstrap(scratch.uri, recipe, [], [], manifest.as_of.isoformat(), manifest.cutoff.isoformat(), warned)
    made = read_release(scratch, PRODUCTION)
    behaviour = made.encoders.get(COLLABORATIVE)
    return {
        "factors": behaviour.details.get("factors") if behaviour else None,
        "fusion": made.fusion_blob,
        "codebook": made.codebook.id,
        "SIDs": made.trie.sha256,
        "training sequences": _sequences(scratch, made),
    }


def _copy(lake: Lake, scratch: Lake, manifest: Manifest, part: LogPart | None) -> None:
    """Copy items, vectors of contents and events; events of a part get other items, users and types."""
    who = Provenance("release audit", manifest.recipe_hash)
    arrived = {"items": "arrived_at", "interactions": "arrival_time"}
    contents = [each.fingerprint for name, each in manifest.encoders.items() if name != COLLABORATIVE]
    for table in ("items", "vectors", "interactions"):
        where = ds.field("fingerprint").isin(contents) if table == "vectors" else None
        where = ds.field(arrived[table]) <= manifest.as_of if where is None else where
        columns = TABLES[table].schema.names
        batches = lake.batches(table, columns, where, rows=1 << 18, version=manifest.versions[table])
        for number, batch in enumerate(each for each in batches if each.num_rows):
            frame = pl.DataFrame(pl.from_arrow(batch))
            if table == "interactions" and part is not None:
                frame = _changed(frame, manifest, part, number)
            append(scratch, table, frame.to_arrow(), f"audit:{number}", who)


def _changed(events: pl.DataFrame, manifest: Manifest, part: LogPart, seed: int) -> pl.DataFrame:
    """Exchange items, users and types among the events of a part, at random."""
    before = events["event_time"] < manifest.cutoff
    chosen = np.flatnonzero((before if part == "seen" else ~before).to_numpy())
    draw = np.random.default_rng(seed)
    for name in ("item_id", "user_id", "event_type"):
        order = np.arange(events.height)
        order[chosen] = draw.permutation(chosen)
        events = events.with_columns(events[name].gather(order))
    return events


def _sequences(lake: Lake, manifest: Manifest) -> str:
    """Return a hash of the training sequences of a release, without the ids of events."""
    trie, log = open_trie(lake, manifest), LogSlice.of(manifest)
    deleted = deleted_items(lake, manifest.versions["items"], manifest.as_of)
    job = SequencesJob("audit", log, trie.item_ids, trie.codes(), 1, None, deleted)
    build_sequences(lake, job, Provenance("release audit", manifest.recipe_hash))
    rows = lake.frame("sequences").select("user_id", "event_time", "event_type", "item_id", "codes")
    return hashlib.sha256(rows.sort(pl.all()).write_json().encode()).hexdigest()
