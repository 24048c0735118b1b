"""Check the columns of sources before reading: names that nearly fit the recipe, and files unlike the others."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.sources.parquet_columns import Columns
from pipelines.sources.protocol import Source, Spec

KINDS = {
    "whole numbers": pa.types.is_integer,
    "numbers": lambda kind: pa.types.is_floating(kind) or pa.types.is_decimal(kind),
    "text": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind),
    "true or false": pa.types.is_boolean,
    "times": pa.types.is_temporal,
    "lists": pa.types.is_nested,
}
"""Kinds of cells, as messages name them, and the types of Arrow that are of a kind."""
_CELL = re.compile(r"[+-]?\d+([.,]\d+)*|\d+[-/.]\d+[-/.]\d+([T ].*)?")
"""A number, a date or a time, which is rarely the name of a column."""
SHOWN = 5
"""Most files that a warning about differences names."""


@dataclass(frozen=True)
class Header:
    """Columns of a source, and the kinds of those whose cells have a type.

    JSON has no columns: `fixed` is False, and the names are those of the first row.
    """

    file: str
    names: frozenset[str]
    kinds: dict[str, str]
    fixed: bool = True


def header_of(source: Source, spec: Spec) -> Header | None:
    """Read the columns of a source from its first row. Return None if it has no row, or one that cannot be read."""
    first = next(source.parts(spec, 1), None)
    if isinstance(first, Columns):
        kinds = {field.name: kind for field in first.batch.schema if (kind := _kind_of(field.type))}
        return Header(source.file, frozenset(first.columns) | source.unread_columns, kinds)
    row = None if first is None else next(iter(first if isinstance(first, list) else first.rows()), None)
    if row is None or (row.reason is not None and not row.columns):
        return None
    names = frozenset(row.columns or row.values) | source.unread_columns
    return Header(source.file, names, {}, fixed=bool(row.columns))


def near_columns(header: Header, spec: Spec) -> dict[str, str]:
    """Map columns that the recipe names and a source lacks to its columns that differ only in case or signs."""
    present = {_normalized(name): name for name in sorted(header.names, reverse=True)}
    lacking = sorted(set(spec.mapped_columns) - header.names)
    return {name: present[_normalized(name)] for name in lacking if _normalized(name) in present}


def seems_to_lack_header(names: Collection[str], meant: Collection[str]) -> bool:
    """Return whether the names of columns read as the cells of a row: those of `meant`, or any where none is there."""
    return any(_CELL.fullmatch(name.strip()) for name in (set(meant) & set(names)) or names)


def lacking_headers(headers: Iterable[Header], spec: Spec) -> Iterator[str]:
    """Yield a line for each text of cells whose first line is probably a row."""
    for header in headers:
        if header.fixed and not header.kinds and seems_to_lack_header(header.names, spec.mapped_columns):
            yield told_header(header.file, header.names)


def told_header(file: str, names: Collection[str]) -> str:
    """Return the line that tells of a first line that is probably a row."""
    return (
        f"{file} seems to have no header: its first line, with {_listed(sorted(names))}, is taken for names of columns "
        "and is lost as a row. Name all columns in csv.columns of the recipe, or write a first line with their names"
    )


def differences(headers: Sequence[Header]) -> Iterator[str]:
    """Yield a line for each source whose columns are not those of most sources, in names or in kinds.

    After SHOWN lines one more says how many sources were left out.
    """
    fixed = [each for each in headers if each.fixed]
    if len(fixed) < 2:
        return
    (usual, _), *_ = Counter(each.names for each in fixed).most_common(1)
    kinds = {name: _most_common(each.kinds[name] for each in fixed if name in each.kinds) for name in usual}
    lines = [f"{each.file} {difference}" for each in fixed if (difference := _difference(each, usual, kinds))]
    yield from (f"{line}, unlike most of the {len(fixed)} files" for line in lines[:SHOWN])
    if len(lines) > SHOWN:
        yield f"{len(lines) - SHOWN:,} more files have other columns than most"


def _difference(header: Header, usual: frozenset[str], kinds: dict[str, str]) -> str:
    """Return what differs from the `usual` columns and their `kinds`, as a message says it; empty if nothing does."""
    parts = []
    if lacking := sorted(usual - header.names):
        parts.append(f"has no column {_listed(lacking)}")
    if besides := sorted(header.names - usual):
        parts.append(f"has also {_listed(besides)}")
    parts += [
        f"has {kind} in {name!r} and not {kinds[name]}"
        for name, kind in sorted(header.kinds.items())
        if kinds.get(name) not in (None, "", kind)
    ]
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def _most_common(kinds: Iterable[str]) -> str:
    return next(iter(Counter(kinds).most_common(1)), ("", 0))[0]


def _kind_of(cells: pa.DataType) -> str:
    """Return the kind of a type; empty for one of no kind, such as a column of nulls."""
    cells = cells.value_type if pa.types.is_dictionary(cells) else cells
    return next((kind for kind, fits in KINDS.items() if fits(cells)), "")


def _normalized(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
