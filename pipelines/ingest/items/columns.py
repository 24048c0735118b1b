"""Rows of a catalogue as a frame of items. Columns are converted as wholes; rows with a doubtful cell one by one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from pipelines.ingest.accounting import as_refused
from pipelines.ingest.cell_columns import Cells, Convert, Converted, booleans, identifiers, series_of
from pipelines.ingest.items.rows import item_of, pictures_of
from pipelines.ingest.parts import CellTable, in_order, pieces_of, rows_at, table_of
from pipelines.ingest.pictures.references import Reference
from pipelines.sources.cells import EXACT_FLOAT, Refused, check_name, values
from pipelines.sources.parquet_columns import python_values
from pipelines.sources.protocol import Part
from pipelines.sources.row import Row
from pipelines.sources.source_spec import ItemsSpec
from storage.hashing.content_hash import content_hashes

ITEMS: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "title": pl.String(),
    "attributes": pl.String(),
    "text_hash": pl.String(),
    "deleted": pl.Boolean(),
    "source_row": pl.Int64(),
}
_STRING: pl.DataType = pl.String()
_CONTROL = r"[\x1c-\x1f]"
"""Characters that Python strips from the ends of a text, and Rust does not."""
POSITIONAL = (1e-3, 1e15)
"""Sizes of floats that are written without an exponent."""
_PLAIN = r"^[ !#-\[\]-~]*$"
"""Texts that JSON writes as they are."""


@dataclass(frozen=True)
class ParsedItems:
    """Items of some rows in the order of the source, and the refused rows.

    `pictures` holds the pictures that rows name, and `without` the refusals of attributes that items lack, both by row.
    """

    items: pl.DataFrame
    pictures: dict[int, tuple[Row, list[Reference]]] = field(default_factory=dict)
    without: dict[int, tuple[Row, list[Refused]]] = field(default_factory=dict)
    refused: list[tuple[Row, Refused]] = field(default_factory=list)


def parse(part: Part, spec: ItemsSpec) -> ParsedItems:
    """Convert rows to items."""
    pieces = [_parse(piece, spec) for piece in pieces_of(part)]
    if len(pieces) == 1:
        return pieces[0]
    pictures = {number: named for piece in pieces for number, named in piece.pictures.items()}
    without = {number: lacked for piece in pieces for number, lacked in piece.without.items()}
    refused = sorted((each for piece in pieces for each in piece.refused), key=lambda each: each[0].number)
    items = in_order([piece.items for piece in pieces], "source_row")
    return ParsedItems(items, dict(sorted(pictures.items())), dict(sorted(without.items())), refused)


def _parse(part: Part, spec: ItemsSpec) -> ParsedItems:
    table, broken = table_of(part, None)
    items, sure = _convert(table, spec)
    doubtful = table.numbers.filter(~sure).to_list()
    if not doubtful and not broken:
        return ParsedItems(items)
    rest = parse_rows(sorted([*rows_at(part, doubtful), *broken], key=lambda row: row.number), spec)
    return replace(rest, items=pl.concat([items.filter(sure), rest.items]).sort("source_row"))


def parse_rows(rows: Sequence[Row], spec: ItemsSpec) -> ParsedItems:
    """Convert rows to items, one by one."""
    items, pictures, without, refused = [], {}, {}, []
    for row in rows:
        try:
            (item, unreadable), named = item_of(row, spec), pictures_of(row.values, spec)
        except Exception as raised:  # noqa: BLE001 - any exception of a row refuses only that row
            refused.append((row, as_refused(raised)))
        else:
            items.append(item)
            if named:
                pictures[row.number] = (row, named)
            if unreadable:
                without[row.number] = (row, unreadable)
    return ParsedItems(pl.DataFrame(items, schema=ITEMS, orient="row"), pictures, without, refused)


def _convert(table: CellTable, spec: ItemsSpec) -> tuple[pl.DataFrame, pl.Series]:
    """Return the items of all rows, and whether each is certain; rows that are not hold any values."""
    rows = len(table)
    names = sorted(name for name in table.columns if name not in spec.not_attributes)
    if spec.languages or not _are_usual(names):
        return pl.DataFrame(schema=ITEMS).clear(rows), _repeated(False, rows)
    item_ids = _column(table, spec.item_id, identifiers)
    titles = _column(table, spec.title, _texts)
    deleted = _column(table, spec.deleted, booleans, pl.Boolean())
    fragments = [json_values(table.columns[name]) for name in names]
    described = _objects(names, [each.values for each in fragments], rows)
    title = titles.values.fill_null("")
    items = pl.DataFrame(
        {
            "item_id": item_ids.values,
            "title": titles.values.set(title == "", None),
            "attributes": described,
            "text_hash": _hashes(title, described),
            "deleted": deleted.values.fill_null(False),
            "source_row": table.numbers,
        },
        schema=ITEMS,
    )
    sure = item_ids.sure & items["item_id"].is_not_null() & titles.sure & deleted.sure
    for each in fragments:
        sure &= each.sure
    sure &= (title.str.len_chars() + described.str.len_chars()) <= spec.max_text_chars
    has_content = (title != "") | items["deleted"]
    sure &= has_content if spec.require_title else has_content | (described != "{}")
    if spec.image and spec.image in table.columns:
        sure &= series_of(table.columns[spec.image]).is_null()
    return items, sure


def _are_usual(names: list[str]) -> bool:
    try:
        for name in names:
            check_name(name)
    except Refused:
        return False
    return len(set(names)) == len(names)


def _column(table: CellTable, name: str | None, convert: Convert, dtype: pl.DataType = _STRING) -> Converted:
    """Convert a column; one that the table lacks is absent in all rows."""
    if not name or name not in table.columns:
        return Converted(pl.repeat(None, len(table), dtype=dtype, eager=True), _repeated(True, len(table)))
    return convert(series_of(table.columns[name]))


def _repeated(value: bool, rows: int) -> pl.Series:
    return pl.repeat(value, rows, dtype=pl.Boolean, eager=True)


def _texts(column: pl.Series) -> Converted:
    """Convert to text; the rule of one cell is `cells.text`."""
    if column.dtype == pl.String:
        sure = ~column.str.contains(_CONTROL)
        return Converted(column.str.strip_chars(), sure.fill_null(True))
    if column.dtype.is_integer():
        return Converted(column.cast(pl.String), _repeated(True, len(column)))
    return Converted(pl.repeat(None, len(column), dtype=pl.String, eager=True), column.is_null())


def json_values(cells: Cells) -> Converted:
    """Return the cells as JSON, null where `cells.values` gives nothing, as it stands in `attributes`."""
    plain = series_of(cells)
    found = _texts(plain)
    if plain.dtype == pl.String or plain.dtype.is_integer():
        text = found.values
        quoted = '"' + text + '"'
        special = ~text.str.contains(_PLAIN).fill_null(True)
        if special.any():
            escaped = pl.Series([json.dumps(each) for each in text.filter(special)], dtype=pl.String)
            quoted = quoted.scatter(special.arg_true(), escaped)
        return Converted(quoted.set((text == "").fill_null(True), None), found.sure)
    if plain.dtype == pl.Float64:
        return Converted(_json_numbers(plain), _repeated(True, len(plain)))
    if plain.dtype == pl.Boolean:
        words = pl.Series(['"false"', '"true"'])
        return Converted(words.gather(plain.cast(pl.UInt32)), _repeated(True, len(plain)))
    texts, sure = [], []
    for cell in cells if isinstance(cells, list) else python_values(cells):
        try:
            value = values(cell, "cell")
            texts.append(json.dumps(value) if value else None)
            sure.append(True)
        except Exception:  # noqa: BLE001 - the row is converted alone, which tells the name of the column
            texts.append(None)
            sure.append(False)
    return Converted(pl.Series(texts, dtype=pl.String), pl.Series(sure, dtype=pl.Boolean))


def _json_numbers(numbers: pl.Series) -> pl.Series:
    """Return floats as texts in JSON, as Python writes them: whole ones as integers, null for NaN."""
    size, whole = numbers.abs(), (numbers.floor() == numbers).fill_null(False)
    exact = whole & (size < EXACT_FLOAT)
    usual = ~whole & size.is_between(*POSITIONAL)  # beyond, Python and Rust write exponents differently
    texts = numbers.cast(pl.String).zip_with(usual, numbers.cast(pl.Int64, strict=False).cast(pl.String))
    found = '"' + texts.set(~(exact | usual).fill_null(False), None) + '"'
    rest = (numbers.is_not_nan() & ~exact & ~usual).fill_null(False)
    if rest.any():
        found = found.scatter(rest.arg_true(), pl.Series(map(_json_number, numbers.filter(rest)), dtype=pl.String))
    return found


def _json_number(value: float) -> str:
    return f'"{int(value) if value.is_integer() else value}"'


def _objects(names: list[str], values: list[pl.Series], rows: int) -> pl.Series:
    """Return objects in JSON as Python writes them, without the names whose value is null."""
    if not names:
        return pl.repeat("{}", rows, dtype=pl.String, eager=True)
    pairs = [pl.lit(f"{json.dumps(name)}: ") + value for name, value in zip(names, values, strict=True)]
    joined = pl.concat_str(pairs, separator=", ", ignore_nulls=True)
    return pl.select("{" + joined + "}").to_series()


def _hashes(titles: pl.Series, described: pl.Series) -> pl.Series:
    return content_hashes(pl.select(pl.concat_str([titles, described], separator="\0")).to_series())
