"""The file of `Factors`: Parquet ordered by item id, so that a night reads only the rows of a few items."""

import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.collaborative.sppmi import Factors
from pipelines.spec import CollaborativeSpec
from storage.files.among import Among
from storage.files.blobs import Blobs
from storage.files.footers import footer_hash, footer_of

GROUP_ROWS = 1 << 10
"""Items of a row group (about 0.5 MB). A look-up reads whole groups; smaller groups make the footer larger."""
BLOB, FOOTER = "factors", "factors_footer"
"""Fields of a reference: the blob of the factors, and the hash of its footer, which verifies parts of the file."""


def factors_bytes(factors: Factors) -> bytes:
    """Return the file: item_id, met and direction of each item; the spec and the sum of `met` are metadata."""
    columns = {
        "item_id": pa.array(factors.names, pa.string()),
        "met": pa.array(factors.met),
        "direction": pa.FixedSizeListArray.from_arrays(
            pa.array(factors.directions.ravel()), factors.directions.shape[1]
        ),
    }
    spec = json.dumps(factors.spec.model_dump(mode="json"), sort_keys=True)
    table = pa.table(columns).replace_schema_metadata({"spec": spec, "total": repr(factors.total)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, GROUP_ROWS, compression="none", use_dictionary=False, write_page_checksum=True)
    return bytes(sink.getvalue())


def store_factors(blobs: Blobs, factors: Factors) -> dict[str, str]:
    """Store the file; return the fields of the reference that reads it."""
    data = factors_bytes(factors)
    return {BLOB: blobs.put(data), FOOTER: footer_hash(footer_of(data))}


def read_factors(blobs: Blobs, details: dict[str, Any], among: Collection[str] | None = None) -> Factors:
    """Return the factors that a reference names: all of them, or those of the items `among` alone.

    A file of an earlier version is always read as a whole.
    """
    if FOOTER not in details:
        return _from_arrow_file(blobs.get(details[BLOB]))
    with blobs.open_parquet(details[BLOB], details[FOOTER]) as file:
        table = file.read() if among is None else _rows_among(file, Among.of("item_id", among))
        return _from_table(table, float(file.schema_arrow.metadata[b"total"]))


def factors_without(blobs: Blobs, details: dict[str, Any], items: Collection[str]) -> dict[str, str] | None:
    """Store the factors that a reference names without some items; return the fields of a reference to them.

    Return None if the factors have none of the items. Vectors on the other factors change a little.
    """
    factors = read_factors(blobs, details)
    stay = np.array([name not in items for name in factors.names], bool)
    if stay.all():
        return None
    names = tuple(name for name in factors.names if name not in items)
    left = replace(factors, names=names, directions=factors.directions[stay], met=factors.met[stay])
    return store_factors(blobs, left)


def _rows_among(file: pq.ParquetFile, items: Among) -> pa.Table:
    groups = items.groups(file.metadata)
    return file.read_row_groups(groups).filter(items.expression) if groups else file.schema_arrow.empty_table()


def _from_arrow_file(data: bytes) -> Factors:
    """Return the factors of an Arrow IPC file, as earlier versions stored them."""
    table = pa.ipc.open_file(data).read_all()
    return _from_table(table, float(table.column("met").combine_chunks().to_numpy().sum()))


def _from_table(table: pa.Table, total: float) -> Factors:
    spec = CollaborativeSpec.model_validate_json(table.schema.metadata[b"spec"])
    column = table.column("direction")
    width = column.type.list_size
    flat = np.concatenate([np.zeros(0, np.float32), *(chunk.flatten().to_numpy() for chunk in column.chunks)])
    return Factors(
        spec, tuple(table.column("item_id").to_pylist()), flat.reshape(-1, width), table.column("met").to_numpy(), total
    )
