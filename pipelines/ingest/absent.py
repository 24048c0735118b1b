"""Columns that a recipe names by a name of its own and that no file of a run has, so that what they say is missing."""

from collections.abc import Iterator, Sequence

from pipelines.ingest.accounting import IngestedSource
from pipelines.sources.file import File
from pipelines.sources.protocol import Spec
from pipelines.sources.source_spec import ItemsSpec, ItemsWithoutImages

_OF_ITEMS = ("title", "image", "deleted")
_OF_EVENTS = (
    *("event_id", "event_type", "arrival_time", "session_id", "request_id", "impression", "position", "value"),
)


def absent_columns(done: Sequence[IngestedSource], spec: Spec) -> Iterator[str]:
    """Yield a line if no row of some sources has columns that the recipe names other than by default.

    A flag of deletion may be absent where rows have fields of their own: JSON, streams and tables.
    """
    read = [each for each in done if each.stages[0].rows_in]
    if not read:
        return
    known = frozenset[str]().union(*(each.columns for each in read))
    absent = [(name, field) for name, field in _named(spec) if name not in known]
    if not all(isinstance(each.source, File) and each.source.has_columns for each in read):
        absent = [each for each in absent if each[1] != "deleted"]
    if absent:
        listed = ", ".join(f"{name!r} ({spec.section}.{field})" for name, field in absent)
        files = read[0].source.file + (f" and {len(read) - 1:,} more" if len(read) > 1 else "")
        yield f"{files}: no row has {listed}, which the recipe names: correct the recipe, or the files"


def _named(spec: Spec) -> Iterator[tuple[str, str]]:
    """Yield the columns that a recipe names other than by default, with their fields."""
    for field in _OF_ITEMS if isinstance(spec, ItemsSpec) else _OF_EVENTS:
        name = getattr(spec, field)
        if name and name != type(spec).model_fields[field].default:
            if field == "image" and isinstance(spec, ItemsWithoutImages):
                continue
            yield name, field
    if isinstance(spec, ItemsSpec):
        yield from ((name, "leave_out") for name in spec.leave_out)
