"""Rows of a log as a frame of events. Columns are converted as wholes; rows with a doubtful cell one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import polars as pl

from pipelines.ingest import cell_columns as whole
from pipelines.ingest.accounting import as_refused
from pipelines.ingest.events.rows import EventRules
from pipelines.ingest.parts import CellTable, in_order, pieces_of, rows_at, table_of
from pipelines.sources.cells import Refused
from pipelines.sources.protocol import Part
from pipelines.sources.row import Row

EVENTS: dict[str, pl.DataType] = {
    "event_id": pl.String(),
    "user_id": pl.String(),
    "item_id": pl.String(),
    "event_type": pl.String(),
    "event_time": whole.TIME,
    "arrival_time": whole.TIME,
    "session_id": pl.String(),
    "request_id": pl.String(),
    "impression": pl.Boolean(),
    "position": pl.Int32(),
    "value": pl.Float64(),
    "source_offset": pl.Int64(),
}
"""Columns of events; `event_id` is null where the log gives none."""


@dataclass(frozen=True)
class ParsedEvents:
    """Events of some rows, in the order of the source, and the rows that were refused.

    `own_ids` says whether a row gives its event an id.
    """

    events: pl.DataFrame
    refused: list[tuple[Row, Refused]]
    own_ids: bool = True


def parse(part: Part, rules: EventRules) -> ParsedEvents:
    """Convert rows to events."""
    pieces = [_parse(piece, rules) for piece in pieces_of(part)]
    if len(pieces) == 1:
        return pieces[0]
    refused = sorted((each for piece in pieces for each in piece.refused), key=lambda each: each[0].number)
    return ParsedEvents(in_order([piece.events for piece in pieces], "source_offset"), refused)


def _parse(part: Part, rules: EventRules) -> ParsedEvents:
    table, broken = table_of(part, rules.spec.selected_columns)
    events, sure = _convert(table, rules)
    doubtful = events.filter(~sure)["source_offset"].to_list()
    if not doubtful and not broken:
        return ParsedEvents(events, [])
    rest = parse_rows(sorted([*rows_at(part, doubtful), *broken], key=lambda row: row.number), rules)
    return ParsedEvents(pl.concat([events.filter(sure), rest.events]).sort("source_offset"), rest.refused)


def parse_rows(rows: Sequence[Row], rules: EventRules) -> ParsedEvents:
    """Convert rows to events, one by one."""
    events, refused = [], []
    for row in rows:
        try:
            events.append(rules.event(row))
        except Exception as raised:  # noqa: BLE001 - any exception of a row refuses only that row
            refused.append((row, as_refused(raised)))
    return ParsedEvents(pl.DataFrame(events, schema=EVENTS, orient="row"), refused)


def _convert(table: CellTable, rules: EventRules) -> tuple[pl.DataFrame, pl.Series]:
    """Return the events of all rows, and whether each is certain; rows that are not hold any values."""
    spec = rules.spec
    times = partial(whole.times, unit=spec.time_unit)
    columns: dict[str, tuple[str, whole.Convert]] = {
        "event_id": (spec.event_id, whole.identifiers),
        "user_id": (spec.user_id, whole.identifiers),
        "item_id": (spec.item_id, whole.identifiers),
        "event_type": (spec.event_type, whole.identifiers),
        "event_time": (spec.event_time, times),
        "arrival_time": (spec.arrival_time, times),
        "session_id": (spec.session_id, whole.identifiers),
        "request_id": (spec.request_id, whole.identifiers),
        "impression": (spec.impression, whole.booleans),
        "position": (spec.position, whole.integers),
        "value": (spec.value, whole.numbers),
    }
    found: dict[str, pl.Series | pl.Expr] = {}
    sure = pl.repeat(True, len(table), dtype=pl.Boolean, eager=True)
    for name, (column, convert) in columns.items():
        if column and column in table.columns:
            converted = convert(whole.series_of(table.columns[column]))
            found[name], sure = converted.values, sure & converted.sure
        else:
            found[name] = pl.repeat(None, len(table), dtype=EVENTS[name], eager=True)
    events = pl.DataFrame({**found, "source_offset": table.numbers}, schema=EVENTS).with_columns(
        pl.col("event_type").fill_null(spec.default_event_type),
        pl.col("arrival_time").fill_null(_instant(rules.arrived_at)),
    )
    required = pl.col("user_id").is_not_null() & pl.col("item_id").is_not_null() & pl.col("event_time").is_not_null()
    in_time = (pl.col("arrival_time") <= _instant(_later(rules.latest_arrival, rules))) & (
        (pl.col("event_time") - pl.col("arrival_time")) <= rules.tolerance
    )
    return events, events.select(required & in_time.fill_null(False)).to_series() & sure


def _instant(time: datetime) -> pl.Expr:
    return pl.lit(time, dtype=whole.TIME)


def _later(time: datetime, rules: EventRules) -> datetime:
    try:
        return time + rules.tolerance
    except OverflowError:
        return datetime.max.replace(tzinfo=time.tzinfo)
