"""Rows of a table without what is erased: rows of a user or an item go, records keep what is not about them.

The SID of an item stays, under no name.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from storage.releases.catalogue import NAMELESS
from storage.releases.manifest import Manifest
from storage.texts import ERASED, Ids

BY_ITEM = ("items", "vectors", "drift")
SIDS = "sids"
BY_USER_AND_ITEM = ("interactions", "sequences")
NamedRow = dict[str, Any]
RECORDS = {
    "runs": ("detail",),
    "pointers": ("note", "value"),
    "sources": ("uri",),
    "evaluations": ("result",),
}
"""Columns of texts in which a record may name a user or an item."""
RECORDED = frozenset(chain.from_iterable(RECORDS.values()))

Amend = Callable[[Manifest], Manifest]
"""Returns a manifest with the blobs that lack an item in the place of those that hold it."""


class Subjects:
    """The users and items to erase."""

    def __init__(self, users: frozenset[str], items: frozenset[str], amend: Amend | None = None) -> None:
        self.users, self.items, self.amend = users, items, amend
        self.texts = Ids(users | items)

    def columns(self, table: str) -> list[str] | None:
        """Return the columns that say whether a row is about them; None for all, no column if no row can be."""
        if table in BY_USER_AND_ITEM:
            return ["user_id", "item_id"]
        if table in (*BY_ITEM, SIDS):
            return ["item_id"] if self.items else []
        return ["manifest"] if table == "releases" else None if table == "quarantine" else [*RECORDS.get(table, ())]

    def without(self, table: str, rows: pa.Table) -> tuple[pa.Table, int]:
        """Return the rows of a data file without them, and the number of rows that were taken out or changed.

        Partition columns may be missing, and all those that `columns` does not name.
        """
        if table in BY_ITEM or table in BY_USER_AND_ITEM:
            return self._fewer(rows, users=table in BY_USER_AND_ITEM)
        if table == SIDS:
            return self._nameless(rows)
        change = {"quarantine": self._refused, "releases": self._released}.get(table, self._recorded)
        old = rows.to_pylist()
        new = [change(row) for row in old]
        changed = sum(before != after for before, after in zip(old, new, strict=True))
        return (pa.Table.from_pylist(new, schema=rows.schema) if changed else rows), changed

    def _fewer(self, rows: pa.Table, users: bool) -> tuple[pa.Table, int]:
        gone = pc.is_in(rows["item_id"], value_set=pa.array(self.items, pa.string()))
        if users:
            gone = pc.or_(gone, pc.is_in(rows["user_id"], value_set=pa.array(self.users, pa.string())))
        left = rows.filter(pc.invert(gone))
        return left, rows.num_rows - left.num_rows

    def _nameless(self, rows: pa.Table) -> tuple[pa.Table, int]:
        """A SID of an erased item loses the item and stays taken: models have learnt what it stood for.

        Its id is made of its codes, and of a number where several such rows of a segment have the same.
        """
        gone = pc.is_in(rows["item_id"], value_set=pa.array(self.items, pa.string()))
        count = pc.sum(gone).as_py() or 0
        if not count or "codes" not in rows.column_names:
            return rows, count
        codes = pl.col("codes").list.eval(pl.element().cast(pl.String)).list.join(".")
        frame = pl.DataFrame(rows).with_columns(nameless=pl.lit(NAMELESS) + codes, gone=pl.Series(gone))
        taken = pl.col("gone") | pl.col("item_id").str.starts_with(NAMELESS)
        number = taken.cast(pl.Int32).cum_sum().over("assignment_id", "nameless")
        name = pl.when(number > 1).then(pl.format("{} {}", "nameless", number)).otherwise("nameless")
        left = frame.with_columns(
            item_id=pl.when(taken).then(name).otherwise("item_id"),
            vector_hash=pl.when("gone").then(pl.lit("")).otherwise("vector_hash"),
        )
        return left.select(rows.column_names).to_arrow().cast(rows.schema), count

    def _refused(self, row: NamedRow) -> NamedRow:
        """A refused row that holds an id loses its content, and counts as resolved: it cannot be tried again."""
        texts = (row["subject"], row["detail"], row["payload"], row["source"])
        if not any(text is not None and self.texts.within(text) for text in texts):
            return row
        source = self.texts.without(row["source"])
        return {**row, "status": "resolved", "subject": None, "detail": ERASED, "payload": None, "source": source}

    def _released(self, row: NamedRow) -> NamedRow:
        """The manifest gets other blobs. What people wrote in it is left: names of settings could look like an id."""
        manifest = Manifest.model_validate_json(row["manifest"])
        gates = tuple(gate.model_copy(update={"detail": self.texts.without(gate.detail)}) for gate in manifest.gates)
        amended = manifest.model_copy(update={"gates": gates})
        if self.amend is not None:
            amended = self.amend(amended)
        return row if amended == manifest else {**row, "manifest": amended.model_dump_json()}

    def _recorded(self, row: NamedRow) -> NamedRow:
        texts = {name: row[name] for name in RECORDED if row.get(name) is not None}
        return {**row, **{name: self.texts.without_in_json(text) for name, text in texts.items()}}
