"""Parsing of times in options."""

from datetime import UTC, datetime


def parse_time(value: str | datetime | None) -> datetime | None:
    """Parse ISO 8601, in UTC if no zone is given."""
    if value is None or isinstance(value, datetime):
        return value
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not a date or time; write it as 1998-02-15 or 1998-02-15T12:00:00.") from error
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def bounds(as_of: str | None, cutoff: str | None) -> tuple[datetime | None, datetime | None]:
    """Parse the requested time bounds of a run."""
    return parse_time(as_of), parse_time(cutoff)
