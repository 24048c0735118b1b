"""Rows that hold one of some texts, and the parts of data files that may hold such rows, by their bounds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

TextBounds = tuple[str, str] | None
"""Least and greatest text of some rows; None if they are unknown."""


def one_of(column: str, values: Iterable[str]) -> ds.Expression:
    """Return a filter for rows whose text column holds one of the values; no rows if there are no values."""
    array = pa.array(values, pa.string())
    return ds.field(column).isin(array) if len(array) else ds.scalar(False)


@dataclass(frozen=True, eq=False)
class Among:
    """A filter for rows whose text column holds one of some values.

    Arrow reads all files and row groups for a set of values, so those that may hold one are chosen here.
    """

    column: str
    values: pl.Series

    @classmethod
    def of(cls, column: str, values: Iterable[str]) -> "Among":
        return cls(column, values if isinstance(values, pl.Series) else pl.Series(list(values), dtype=pl.String))

    @property
    def expression(self) -> ds.Expression:
        return ds.field(self.column).isin(self._arrow)

    @cached_property
    def _arrow(self) -> pa.Array:
        return self.values.to_arrow().cast(pa.string())

    @cached_property
    def _sorted(self) -> pl.Series:
        return self.values.sort()

    def may_be_within(self, bounds: Sequence[TextBounds]) -> NDArray[np.bool_]:
        """Return for some rows with these bounds, each time, whether one of the values may be among them."""
        known = [each or ("", "") for each in bounds]
        first = self._sorted.search_sorted(pl.Series([low for low, _ in known], dtype=pl.String), side="left")
        last = self._sorted.search_sorted(pl.Series([high for _, high in known], dtype=pl.String), side="right")
        unknown = np.array([each is None for each in bounds], bool)
        return np.asarray((last > first).to_numpy() | (unknown & (len(self.values) > 0)))

    def narrowed(self, dataset: ds.FileSystemDataset, columns: Sequence[str] | None) -> ds.FileSystemDataset:
        """Return the row groups of a dataset that hold one of the values, of which some columns will be read.

        They are known by their bounds or, if others are to be read too, by the column itself, which is narrow.
        """
        others = columns is None or set(columns) != {self.column}
        fragments = [self._narrowed(each, others) for each in dataset.get_fragments()]
        return ds.FileSystemDataset(fragments, dataset.schema, dataset.format, dataset.filesystem)

    def _narrowed(self, fragment: ds.ParquetFileFragment, exactly: bool) -> ds.ParquetFileFragment:
        groups = self.groups(fragment.metadata)
        if exactly and len(groups) > 1 and self.column in fragment.physical_schema.names:
            groups = self._holding(fragment, groups)
        return fragment if len(groups) == fragment.metadata.num_row_groups else fragment.subset(row_group_ids=groups)

    def _holding(self, fragment: ds.ParquetFileFragment, groups: list[int]) -> list[int]:
        """Return those of some row groups that hold one of the values."""
        texts = fragment.subset(row_group_ids=groups).to_table(columns=[self.column]).column(0)
        rows = np.flatnonzero(pc.is_in(texts, value_set=self._arrow).to_numpy())
        ends = np.cumsum([fragment.metadata.row_group(group).num_rows for group in groups])
        return [groups[place] for place in np.unique(np.searchsorted(ends, rows, side="right"))]

    def groups(self, metadata: pq.FileMetaData) -> list[int]:
        """Return the row groups of a file that may hold one of the values."""
        return np.flatnonzero(self.may_be_within(_bounds(metadata, self.column))).tolist()


def both(where: ds.Expression | None, among: Among | None) -> ds.Expression | None:
    """Return the filter of a condition and of some values, either of which may be missing."""
    if where is None or among is None:
        return where if among is None else among.expression
    return where & among.expression


def _bounds(metadata: pq.FileMetaData, column: str) -> list[TextBounds]:
    """Return the bounds of a column in each row group."""
    names = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    if column not in names:
        return [None] * metadata.num_row_groups
    place = names.index(column)
    found = (metadata.row_group(group).column(place).statistics for group in range(metadata.num_row_groups))
    return [(each.min, each.max) if each is not None and each.has_min_max else None for each in found]
