"""Status of a lake, of its releases and of its models, as the commands print them and write them as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from flows.inspect.lake_state import LakeState, lake_state, main_figures
from infra.addresses import without_secrets
from storage.lake import Lake
from storage.quarantine import by_reason, open_rows
from storage.reasons import ATTRIBUTES, IMAGES, ITEMS, VECTORS, Reason, remedy
from storage.releases.catalogue import catalogue
from storage.releases.evaluation import EvaluationResult
from storage.releases.manifest import Gate, Manifest, TrieRef
from storage.releases.models import Model, models, models_of, read_model
from storage.releases.pointers import Published, pointer_history, targets_of
from storage.releases.releases import PRODUCTION, published, releases
from storage.schemas import TABLES


@dataclass(frozen=True)
class ReleaseStatus:
    """A release in brief; times are ISO 8601.

    `codebook_sizes` are codes per level, `versions` those of the pinned tables, `encoders` fingerprints by modality,
    `counts` numbers of items and of refused rows. The `metrics` depend on the version that made the release.
    """

    id: str
    kind: str
    parent: str | None
    created_at: str
    items: int
    codebook: str
    codebook_sizes: list[int]
    vocabulary: str
    as_of: str
    cutoff: str
    versions: Mapping[str, int]
    encoders: Mapping[str, str]
    fusion: str
    assignments: list[str]
    trie: TrieRef
    counts: Mapping[str, int]
    metrics: Mapping[str, Any]
    gates: tuple[Gate, ...]

    def as_record(self) -> dict[str, Any]:
        """Return JSON values by name."""
        return {**vars(self), "trie": self.trie.model_dump(), "gates": [gate.model_dump() for gate in self.gates]}


@dataclass(frozen=True)
class ModelStatus:
    """A model with its newest evaluation, and the main figures of that as `metrics`."""

    id: str
    release: str
    vocabulary: str
    weights: str
    metrics: Mapping[str, float]
    evaluated_on: str | None
    evaluation: EvaluationResult | None

    def as_record(self) -> dict[str, Any]:
        """Return JSON values by name."""
        return {**vars(self), "evaluation": self.evaluation.as_record() if self.evaluation else {}}


@dataclass(frozen=True)
class ListedRelease:
    """A release in a list: the text of its pin, if one holds, and the dates of the erasures that redacted it."""

    status: ReleaseStatus
    pinned: str | None
    redacted: list[str]

    def as_record(self) -> dict[str, Any]:
        """Return JSON values by name."""
        return {**self.status.as_record(), "pinned": self.pinned, "redacted": self.redacted}


@dataclass(frozen=True)
class ShownRelease:
    """A release with its models."""

    status: ReleaseStatus
    models: list[ModelStatus]

    def as_record(self) -> dict[str, Any]:
        """Return JSON values by name."""
        return {**self.status.as_record(), "models": [model.as_record() for model in self.models]}


@dataclass(frozen=True)
class TableState:
    """The newest version of a table and its number of rows."""

    version: int
    rows: int


@dataclass(frozen=True)
class LakeStatus:
    """A lake: its state, tables by name, production, releases, models, and open rows of the quarantine by reason."""

    lake: str
    state: LakeState
    tables: Mapping[str, TableState]
    published: Published | None
    releases: list[ReleaseStatus]
    models: list[ModelStatus]
    refused: Mapping[str, int]

    @property
    def refused_rows(self) -> int:
        """The number of open rows of the quarantine."""
        return sum(self.refused.values())

    def as_record(self) -> dict[str, Any]:
        """Return the record for `sidmill lake status --json`."""
        return {
            "lake": self.lake,
            **self.state.as_record(),
            "tables": {name: vars(table) for name, table in self.tables.items()},
            "aliases": {PRODUCTION: vars(self.published)} if self.published else {},
            "releases": [release.as_record() for release in self.releases],
            "models": [model.as_record() for model in self.models],
            "quarantine": {"rows": self.refused_rows, "by_reason": self.refused},
        }


def lake_status(lake: Lake) -> LakeStatus:
    """Return the status of a lake; one that does not exist yet is empty."""
    return LakeStatus(
        lake=lake.uri,
        state=lake_state(lake),
        tables={name: TableState(lake.version(name), lake.rows(name)) for name in TABLES if lake.exists(name)},
        published=published(lake),
        releases=[release_status(manifest) for manifest in releases(lake)],
        models=[model_status(row) for row in models(lake)],
        refused=by_reason(lake),
    )


def refused_rows(lake: Lake, reason: str | None = None) -> pl.DataFrame:
    """Return open quarantine rows with `remedy`, the `item` concerned, and the `file` and `row` it was read from.

    A row that a stage after ingest refused has no row in a file, given vectors aside; it gets that of the item's newest
    revision.
    """
    rows = open_rows(lake, reason=reason)
    items = catalogue(lake, columns=["source", "source_row"], among=rows["subject"].drop_nulls().unique().to_list())
    read_from = items.select(subject="item_id", item_source="source", item_row="source_row")
    ingested = pl.col("stage").str.starts_with("ingest")
    own = ingested | pl.col("stage").str.starts_with(f"{VECTORS} ")
    about_item = ~ingested | pl.col("stage").is_in([ITEMS, ATTRIBUTES, IMAGES])
    return (
        as_shown(rows)
        .join(read_from, on="subject", how="left", maintain_order="left")
        .select(
            *rows.columns,
            item=pl.when(about_item).then("subject"),
            file=pl.when(own).then("source").otherwise("item_source"),
            row=pl.when(own).then("source_row").otherwise("item_row"),
            remedy="remedy",
        )
    )


def as_shown(refused: pl.DataFrame) -> pl.DataFrame:
    """Add the text `remedy` for the reason of each row, and hide possible secrets of addresses."""
    known = {str(reason): remedy(reason) for reason in Reason}
    hidden = [
        pl.Series(name, [text and without_secrets(text) for text in refused[name]], pl.String)
        for name in ("detail", "payload")
    ]
    return refused.with_columns(
        *hidden, remedy=pl.col("reason").replace_strict(known, default="", return_dtype=pl.String)
    )


def release_status(manifest: Manifest) -> ReleaseStatus:
    """Return the status of a release."""
    return ReleaseStatus(
        id=manifest.id,
        kind=manifest.kind,
        parent=manifest.parent,
        created_at=manifest.created_at.isoformat(),
        items=manifest.items,
        codebook=manifest.codebook.id,
        codebook_sizes=list(manifest.codebook.sizes),
        vocabulary=manifest.codebook.vocabulary,
        as_of=manifest.as_of.isoformat(),
        cutoff=manifest.cutoff.isoformat(),
        versions=manifest.versions,
        encoders={name: encoder.fingerprint for name, encoder in manifest.encoders.items()},
        fusion=manifest.fusion.fingerprint,
        assignments=list(manifest.assignments),
        trie=manifest.trie,
        counts=manifest.counts,
        metrics=manifest.metrics,
        gates=manifest.gates,
    )


def models_shown(lake: Lake, manifest: Manifest) -> list[Model]:
    """Return the model last published with a release, then those trained or evaluated on it.

    A night's release is published with a model of an earlier release, whose newest evaluation may be on that one.
    """
    own = models_of(lake, manifest.id)
    ever = targets_of(pointer_history(lake, PRODUCTION))
    served = next((target.model for target in reversed(ever) if target.release == manifest.id), None)
    first = [row for row in own if row.id == served] or ([read_model(lake, served)] if served else [])
    return first + [row for row in own if row.id != served]


def model_status(row: Model) -> ModelStatus:
    """Return the status of a model."""
    return ModelStatus(
        id=row.id,
        release=row.release,
        vocabulary=row.vocabulary,
        weights=row.weights,
        metrics=main_figures(row.evaluation),
        evaluated_on=row.evaluated_on,
        evaluation=row.evaluation,
    )
