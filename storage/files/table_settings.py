"""Settings and constraints of the tables of a lake, set when a table is made and wherever they are missing."""

from collections.abc import Callable

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from storage.files.durable import committing
from storage.files.store import Files
from storage.schemas import PROPERTIES, TableSpec


def with_settings(place: Files, handle: DeltaTable, spec: TableSpec, reopen: Callable[[], DeltaTable]) -> DeltaTable:
    """Return the table with the common settings and its constraints, and set those that are missing.

    Another process may set them at the same time; the table is then opened again with `reopen`.
    """
    missing = {name: value for name, value in PROPERTIES.items() if _setting(handle, name) != value}
    if missing:
        try:
            with committing(place, handle):
                handle.alter.set_table_properties(missing)
        except DeltaError:
            handle = reopen()
            if any(_setting(handle, name) != value for name, value in missing.items()):
                raise
    for name, rule in spec.constraints.items():
        if _setting(handle, f"delta.constraints.{name}") is None:
            try:
                with committing(place, handle):
                    handle.alter.add_constraint({name: rule})
            except DeltaError:
                handle = reopen()
                if _setting(handle, f"delta.constraints.{name}") is None:
                    raise
    return handle


def _setting(handle: DeltaTable, name: str) -> str | None:
    value: str | None = handle.metadata().configuration.get(name)
    return value
