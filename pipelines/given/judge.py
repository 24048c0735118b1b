"""Ids, vectors and content hashes of a batch of given vectors, with the reason for each row that is refused."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.ingest.cell_columns import identifiers, series_of
from pipelines.modalities import Matrix
from pipelines.sources.cells import Refused, identifier, read_cell
from pipelines.sources.parquet_columns import Columns
from pipelines.vector_store import vector_hashes
from storage.reasons import Reason

ROWS = {
    "row": pl.Int64(),
    "item_id": pl.String(),
    "content_hash": pl.String(),
    "reason": pl.String(),
    "detail": pl.String(),
}

SMALLEST = np.finfo(np.float32).tiny
"""A vector whose squares sum to less has no length that 32-bit floats hold in full, and so no certain direction."""


@dataclass(frozen=True)
class Judged:
    """Rows of a batch (ROWS), aligned with their vectors.

    A row with a content hash is good. One with neither hash nor reason has no vector: its cell is null.
    """

    rows: pl.DataFrame
    vectors: Matrix


def judge(batch: pa.RecordBatch, dim: int, first: int) -> Judged:
    """Read a batch (ids, lists of numbers) whose first row is row `first` of its file."""
    widths = pl.Series(pc.list_value_length(batch.column(1)), dtype=pl.Int64)
    vectors = _float32(batch.column(1), (widths == dim).fill_null(False), dim)
    with np.errstate(over="ignore", under="ignore"):
        squares = np.einsum("rd,rd->r", vectors, vectors)
    ids, refused = _ids(batch, first)
    rows = pl.DataFrame(
        {
            "row": pl.int_range(first, first + batch.num_rows, dtype=pl.Int64, eager=True),
            "item_id": ids,
            "width": widths,
            "finite": pl.Series(np.isfinite(squares)),
            "zero": pl.Series(squares < SMALLEST),
            "beyond": pl.Series(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)),
        }
    ).with_columns(reason=_reason(dim), detail=_detail(dim))
    good = rows["width"].is_not_null() & rows["reason"].is_null() & ids.is_not_null()
    rows = rows.with_columns(pl.when(good).then(vector_hashes(vectors))).select(*ROWS)
    return Judged(rows.update(refused, on="row") if refused.height else rows, vectors)


def _reason(dim: int) -> pl.Expr:
    return (
        pl.when(pl.col("width").is_null())
        .then(None)
        .when(pl.col("width") != dim)
        .then(pl.lit(Reason.GIVEN_WIDTH.value))
        .when(~pl.col("finite"))
        .then(pl.lit(Reason.GIVEN_NOT_FINITE.value))
        .when("zero")
        .then(pl.lit(Reason.GIVEN_ZERO.value))
    )


def _detail(dim: int) -> pl.Expr:
    other = pl.col("width").is_not_null() & (pl.col("width") != dim)
    beyond = "32-bit floats cannot hold its length"
    return (
        pl.when(other)
        .then(pl.format(f"width {{}} instead of {dim}", "width"))
        .when(pl.col("beyond") & ~pl.col("finite"))
        .then(pl.lit(f"too large: {beyond}"))
        .when(pl.col("beyond") & pl.col("zero"))
        .then(pl.lit(f"too small: {beyond}"))
    )


def _float32(column: pa.Array, fitting: pl.Series, dim: int) -> Matrix:
    """Return the lists as float32 (n, dim); zeros where they do not fit, NaN for nulls in them."""
    lists = column if fitting.all() else column.filter(fitting.to_arrow())
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused as such
        values: Matrix = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(-1, dim)
    if len(values) == len(column):
        return values
    vectors = np.zeros((len(column), dim), np.float32)
    vectors[fitting.to_numpy()] = values
    return vectors


def _ids(batch: pa.RecordBatch, first: int) -> tuple[pl.Series, pl.DataFrame]:
    """Return the ids as a catalogue's are read, null where refused, and the refused rows (row, reason, detail)."""
    name = batch.schema.names[0]
    found = identifiers(series_of(batch.column(0)))
    ids, refused = found.values, []
    doubtful = (~found.sure | ids.is_null()).arg_true().to_list()
    single = Columns(first, batch.select([name]), (name,))
    mended: list[str | None] = []
    reason: str
    for row in single.rows(doubtful) if doubtful else ():
        try:
            item = read_cell(row.values, name, identifier)
            reason, detail = Reason.MISSING_ITEM_ID, f"{name} is empty"
        except Refused as error:
            item, reason, detail = None, error.reason, error.detail
        mended.append(item)
        if item is None:
            refused.append((row.number, str(reason), detail))
    if doubtful:
        ids = ids.scatter(doubtful, pl.Series(mended, dtype=pl.String))
    return ids, pl.DataFrame(refused, {"row": pl.Int64, "reason": pl.String, "detail": pl.String}, orient="row")
