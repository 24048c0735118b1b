"""One row of a log as an event, or refused with the reason."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from pipelines.ingest.accounting import lacking
from pipelines.sources.cells import Refused, boolean, identifier, integer, number, read_cell
from pipelines.sources.row import Row
from pipelines.sources.source_spec import InteractionsSpec
from pipelines.sources.times import utc_time
from storage.reasons import Reason


class EventRules:
    """Rules for the conversion of rows to events. The arrival time is that of the row, otherwise `arrived_at`."""

    def __init__(self, spec: InteractionsSpec, arrived_at: datetime) -> None:
        self.spec, self.arrived_at = spec, arrived_at
        self.tolerance = timedelta(hours=spec.future_tolerance_hours)
        self.latest_arrival = max(arrived_at, datetime.now(UTC))

    def event(self, row: Row) -> dict[str, Any]:
        """Return the fields of an event; `event_id` is None if the row gives none. Raise Refused."""
        if row.reason is not None:
            raise Refused(row.reason, row.detail)
        spec, values = self.spec, row.values
        user, item = (read_cell(values, column, identifier) for column in (spec.user_id, spec.item_id))
        if user is None:
            raise Refused(Reason.MISSING_USER_ID, lacking(row, spec.user_id, "interactions.user_id"))
        if item is None:
            raise Refused(Reason.MISSING_ITEM_ID, lacking(row, spec.item_id, "interactions.item_id"))
        event_time, arrival = self._times(row)
        event = {
            "user_id": user,
            "item_id": item,
            "event_type": read_cell(values, spec.event_type or None, identifier) or spec.default_event_type,
            "event_time": event_time,
            "arrival_time": arrival,
            "session_id": read_cell(values, spec.session_id or None, identifier),
            "request_id": read_cell(values, spec.request_id or None, identifier),
            "impression": read_cell(values, spec.impression or None, boolean),
            "position": read_cell(values, spec.position or None, integer),
            "value": read_cell(values, spec.value or None, number),
            "source_offset": row.number,
        }
        return {"event_id": read_cell(values, spec.event_id or None, identifier) or None, **event}

    def _times(self, row: Row) -> tuple[datetime, datetime]:
        """Return event time and arrival time."""
        spec, read = self.spec, partial(utc_time, unit=self.spec.time_unit)
        event_time = read_cell(row.values, spec.event_time, read)
        if event_time is None:
            raise Refused(Reason.MISSING_EVENT_TIME, lacking(row, spec.event_time, "interactions.event_time"))
        own = read_cell(row.values, spec.arrival_time or None, read)
        arrival, came = (own, spec.arrival_time) if own else (self.arrived_at, "its arrival with this run")
        if arrival - self.latest_arrival > self.tolerance:
            raise Refused(Reason.EVENT_IN_FUTURE, f"{came} = {arrival.isoformat()} is after this run")
        if event_time - arrival > self.tolerance:
            detail = f"{spec.event_time} = {event_time.isoformat()} is after {came} = {arrival.isoformat()}"
            raise Refused(Reason.EVENT_IN_FUTURE, detail)
        return event_time, arrival
