"""Rows in the schema of their table, or an error before anything is written."""

import polars as pl
import pyarrow as pa

from storage.errors import SchemaMismatch
from storage.schemas import TABLES


def conform(table: str, rows: pa.Table) -> pa.Table:
    """Return `rows` in the column order and types of `table`; raise SchemaMismatch if a cast would lose data."""
    schema = TABLES[table].schema
    if set(rows.schema.names) != set(schema.names):
        missing, extra = set(schema.names) - set(rows.schema.names), set(rows.schema.names) - set(schema.names)
        raise SchemaMismatch(
            f"rows for table {table!r}: missing columns {sorted(missing)}, unknown columns {sorted(extra)}."
        )
    rows = rows.select(schema.names)
    for wanted, found in zip(schema, rows.schema, strict=True):
        if pa.types.is_string(found.type) != pa.types.is_string(wanted.type) and not (
            pa.types.is_large_string(found.type) or pa.types.is_null(found.type) or pa.types.is_string_view(found.type)
        ):
            raise SchemaMismatch(
                f"rows for table {table!r}: column {wanted.name!r} is {found.type}, not {wanted.type}."
            )
        if not wanted.nullable and rows.column(wanted.name).null_count:
            raise SchemaMismatch(f"rows for table {table!r}: column {wanted.name!r} has nulls, but it is required.")
    try:
        rows = rows.cast(schema)
    except pa.ArrowException as error:
        raise SchemaMismatch(f"rows for table {table!r}: {error}") from error
    for name, rule in TABLES[table].constraints.items():
        condition = pl.sql_expr(rule)
        asked = pl.DataFrame(rows.select(list(dict.fromkeys(condition.meta.root_names()))))
        broken = asked.select(condition.not_().alias(name))[name].arg_true()
        if len(broken):
            raise SchemaMismatch(
                f"rows for table {table!r}: {len(broken)} break the rule {name} ({rule}), for example "
                f"{rows.slice(broken[0], 1).to_pylist()[0]}."
            )
    return rows
