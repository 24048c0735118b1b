"""State of a lake as one JSON-serialisable record: last run, production, tables, releases, models, quarantine."""

from typing import Any

import polars as pl

from flows.inspect.lake_state import lake_state, main_figures
from infra.addresses import without_secrets
from storage.lake import Lake
from storage.quarantine import by_reason, open_rows
from storage.reasons import ATTRIBUTES, IMAGES, ITEMS, VECTORS, Reason, remedy
from storage.releases.catalogue import catalogue
from storage.releases.manifest import Manifest
from storage.releases.models import Model, models, models_of, read_model
from storage.releases.pointers import pointer_history
from storage.releases.releases import PRODUCTION, published, releases
from storage.schemas import TABLES


def lake_status(lake: Lake) -> dict[str, Any]:
    """Return the record for `sidmill lake status --json`; a lake that does not exist yet is empty."""
    current = published(lake)
    reasons = by_reason(lake)
    state = lake_state(lake)
    return {
        "lake": lake.uri,
        **state.as_record(),
        "tables": {
            name: {"version": lake.version(name), "rows": lake.rows(name)} for name in TABLES if lake.exists(name)
        },
        "aliases": {PRODUCTION: {"release": current.release, "model": current.model}} if current else {},
        "releases": [release_status(manifest) for manifest in releases(lake)],
        "models": [model_status(row) for row in models(lake)],
        "quarantine": {"rows": sum(reasons.values()), "by_reason": reasons},
    }


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


def release_status(manifest: Manifest) -> dict[str, Any]:
    """Return the status record of a release."""
    return {
        "id": manifest.id,
        "kind": manifest.kind,
        "parent": manifest.parent,
        "created_at": manifest.created_at.isoformat(),
        "items": manifest.items,
        "codebook": manifest.codebook.id,
        "codebook_sizes": list(manifest.codebook.sizes),
        "vocabulary": manifest.codebook.vocabulary,
        "as_of": manifest.as_of.isoformat(),
        "cutoff": manifest.cutoff.isoformat(),
        "versions": manifest.versions,
        "encoders": {name: encoder.fingerprint for name, encoder in manifest.encoders.items()},
        "fusion": manifest.fusion.fingerprint,
        "assignments": list(manifest.assignments),
        "trie": manifest.trie.model_dump(),
        "counts": manifest.counts,
        "metrics": manifest.metrics,
        "gates": [gate.model_dump() for gate in manifest.gates],
    }


def models_shown(lake: Lake, manifest: Manifest) -> list[Model]:
    """Return the model last published with a release, then those trained or evaluated on it.

    A night's release is published with a model of an earlier release, whose newest evaluation may be on that one.
    """
    own = models_of(lake, manifest.id)
    moves = [move.value for move in pointer_history(lake, PRODUCTION)[1:]]
    served = next((move["model"] for move in reversed(moves) if move["release"] == manifest.id), None)
    first = [row for row in own if row.id == served] or ([read_model(lake, served)] if served else [])
    return first + [row for row in own if row.id != served]


def model_status(row: Model) -> dict[str, Any]:
    """Return the status record of a model; `metrics` are the main figures of its `evaluation`."""
    return {
        "id": row.id,
        "release": row.release,
        "vocabulary": row.vocabulary,
        "weights": row.weights,
        "metrics": main_figures(row.evaluation),
        "evaluated_on": row.evaluated_on,
        "evaluation": row.evaluation.as_record() if row.evaluation else {},
    }
