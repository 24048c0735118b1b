"""Reader of the rows of one log: events with their ids, and refused rows."""

from datetime import datetime

import polars as pl

from pipelines.counts import Counts
from pipelines.ingest.accounting import payload
from pipelines.ingest.events.columns import ParsedEvents, parse
from pipelines.ingest.events.ids import Copies, content_ids
from pipelines.ingest.events.pseudonyms import Pseudonyms
from pipelines.ingest.events.rows import EventRules
from pipelines.ingest.parts import row_count, row_numbers
from pipelines.sources.cells import Refused
from pipelines.sources.protocol import Part, Source
from pipelines.sources.row import Row
from pipelines.sources.source_spec import InteractionsSpec
from storage.quarantine import Reject
from storage.reasons import INTERACTIONS as STAGE
from storage.reasons import Reason


class LogReader:
    """Reader of one source's rows, which skips those in `before` and counts those it refuses."""

    def __init__(
        self,
        source: Source,
        spec: InteractionsSpec,
        arrived_at: datetime,
        before: pl.Series,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self.source, self.spec = source, spec
        self._rules, self._before = EventRules(spec, arrived_at), before
        self._pseudonyms = pseudonyms
        self._copies = Copies() if spec.repeats == "keep" else None

    @property
    def is_alike_everywhere(self) -> bool:
        """True if a part is read as it would be beside the other parts, and by a process without the user's key."""
        return not len(self._before) and self._pseudonyms is None and self._copies is None

    def parse(self, part: Part) -> ParsedEvents:
        """Convert rows to events; the ones that have no id get the hash of their content."""
        parsed = parse(part, self._rules)
        events, lacking = parsed.events, parsed.events["event_id"].is_null()
        if self._pseudonyms is not None:
            events = events.with_columns(user_id=self._pseudonyms.names(events["user_id"]))
        if not lacking.any():
            return ParsedEvents(events, parsed.refused, parsed.own_ids)
        if self._copies is None:
            events = _with_ids(events, lacking, content_ids(events.filter(lacking)))
        return ParsedEvents(events, parsed.refused, not lacking.all())

    def fresh(self, part: Part, parsed: ParsedEvents, counts: Counts) -> tuple[pl.DataFrame, list[Reject]]:
        """Return the events and the refused rows that no earlier reading wrote; count all but the events."""
        events = parsed.events
        if self._copies is not None:
            lacking = events["event_id"].is_null()
            copies = self._copies.ids(content_ids(events.filter(lacking)))
            events = _with_ids(events, lacking, copies)
        offsets = row_numbers(part)
        before = set(offsets.filter(offsets.is_in(self._before.implode()))) if len(self._before) else set()
        counts.rows_in += row_count(part)
        counts.unchanged += len(before)
        if before:
            events = events.filter(~pl.col("source_offset").is_in(before))
        rejects = [self._reject(row, error, counts) for row, error in parsed.refused if row.number not in before]
        return events.with_columns(source=pl.lit(self.source.name)), rejects

    def _reject(self, row: Row, error: Refused, counts: Counts) -> Reject:
        values, detail = row.values, error.detail
        if self._pseudonyms is not None and error.reason != Reason.UNREADABLE_TEXT:  # which has a place, and no user
            values, detail = self._pseudonyms.of_refused(values, self.spec.user_id, detail)
        counts.refuse(error.reason, row.rows, detail)
        return Reject(STAGE, error.reason, detail, self.source.name, row.number, None, payload(values))


def _with_ids(events: pl.DataFrame, lacking: pl.Series, ids: pl.Series) -> pl.DataFrame:
    """Give ids to the events that lack one."""
    if lacking.all():
        return events.with_columns(event_id=ids)
    return events.with_columns(event_id=events["event_id"].scatter(lacking.arg_true(), ids))
