"""Steps for given vectors: their contents are read first, and stored if the run has work."""

from dataclasses import dataclass, field
from functools import partial

import polars as pl

from flows.runtime.budget import check_stage_budget
from flows.runtime.run import Run
from flows.snapshot import Snapshot
from flows.steps.embed import check_encoders
from flows.steps.task import step
from pipelines.embed.protocol import fingerprint
from pipelines.given.inventory import Inventory, Known, inventory_of, store_inventory
from pipelines.given.source import GivenSource, open_given
from pipelines.spec import GivenSpec
from pipelines.vector_store import stored_among
from storage.lake import Lake
from storage.reasons import VECTORS
from storage.releases.manifest import EncoderRef, Manifest

KIND = "given"


@dataclass(frozen=True)
class Given:
    """Contents of the sections `vectors.NAME` for the items of a catalogue, and the references that a release pins."""

    inventories: dict[str, Inventory] = field(default_factory=dict)
    encoders: dict[str, EncoderRef] = field(default_factory=dict)

    def pairs(self, name: str) -> pl.DataFrame | None:
        """Return the pairs of an inventory; None without that section."""
        inventory = self.inventories.get(name)
        return None if inventory is None else inventory.pairs

    @property
    def key_fields(self) -> dict[str, dict[str, str]]:
        """Fields of a release's key: the vectors that are given, or none for a recipe without sections."""
        digests = {name: each.digest for name, each in self.inventories.items()}
        return {"vectors": digests} if digests else {}

    def new_since(self, lake: Lake, parent: Manifest) -> list[str]:
        """Return the items whose vectors the lake lacked at a release."""
        version = parent.versions["vectors"]
        fresh: set[str] = set()
        for name, each in self.inventories.items():
            known = stored_among(lake, name, self.encoders[name].fingerprint, each.pairs, version)
            fresh |= set(each.pairs["item_id"].filter(pl.Series(~known)))
        return sorted(fresh)


NONE = Given()


def is_given(encoder: EncoderRef) -> bool:
    """Return whether the vectors under a reference were made elsewhere."""
    return encoder.details.get("kind") == KIND


@step
def read_given(run: Run, snapshot: Snapshot, parent: Manifest | None = None) -> Given:
    """Read the given vectors of the items of the catalogue. Nothing is written.

    Raise EncoderChanged if the `parent` that a night extends pins vectors of another version or width.
    """
    sections = run.recipe.vectors
    if not sections:
        return NONE
    sources = {name: open_given(name, spec) for name, spec in sections.items()}
    encoders = {name: _reference(source, sections[name]) for name, source in sources.items()}
    if parent is not None:
        check_encoders(parent.id, {name: each for name, each in parent.encoders.items() if is_given(each)}, encoders)
    items = snapshot.alive(run.lake) if parent is None else partial(snapshot.alive, run.lake)
    return Given({name: _inventory(run, source, items) for name, source in sources.items()}, encoders)


def _reference(source: GivenSource, spec: GivenSpec) -> EncoderRef:
    details = {"kind": KIND, "name": source.name, "dim": source.dim, "version": spec.version}
    return EncoderRef(fingerprint=fingerprint(details), details=details)


def _inventory(run: Run, source: GivenSource, items: pl.DataFrame | Known) -> Inventory:
    if source.left_out:
        run.say(f"  warning: vectors.{source.name}: {source.warning}")
    with run.stage(f"read {source.name}") as view:
        inventory = inventory_of(source, items)
        of = f"of {items.height:,} " if isinstance(items, pl.DataFrame) else ""
        parts = [f"vectors of {inventory.pairs.height:,} {of}items"]
        for rows, meaning in (
            (inventory.refused.height, "rows to refuse"),
            (inventory.unknown, "rows of ids that the catalogue does not have"),
            (inventory.absent, "rows without a vector"),
        ):
            if rows:
                parts.append(f"{rows:,} {meaning}")
        view.note(", ".join(parts), unknown=inventory.unknown, absent=inventory.absent)
    return inventory


@step
def store_given(run: Run, given: Given) -> None:
    """Store the given vectors that the lake lacks; quarantine bad rows, and check the budget of each section."""
    for name, inventory in given.inventories.items():
        with run.stage(f"{VECTORS} {name}", inventory.pairs.height) as view:
            counts = store_inventory(
                run.lake, inventory, given.encoders[name].fingerprint, run.provenance(), view.advance
            )
            view.count(counts)
        check_stage_budget(counts, run.recipe.budget, inventory.files)
