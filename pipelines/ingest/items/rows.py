"""One row of a catalogue as an item, or refused with the reason."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

from pipelines.ingest.accounting import lacking
from pipelines.ingest.items.languages import in_language
from pipelines.ingest.pictures.references import Reference, references
from pipelines.sources.cells import (
    Refused,
    Unreadable,
    boolean,
    check_depth,
    check_name,
    identifier,
    read_cell,
    text,
    values,
)
from pipelines.sources.row import Row
from pipelines.sources.source_spec import ItemsSpec
from storage.reasons import Reason

T = TypeVar("T")


def item_of(row: Row, spec: ItemsSpec) -> tuple[dict[str, Any], list[Refused]]:
    """Return the fields of an item, without its pictures, and the refusals of its attributes. Raise Refused.

    An attribute that cannot be read is left out. It refuses the row only if nothing else describes the item.
    """
    if row.reason is not None:
        raise Refused(row.reason, row.detail)
    item_id = read_cell(row.values, spec.item_id, identifier)
    if item_id is None:
        raise Refused(Reason.MISSING_ITEM_ID, lacking(row, spec.item_id, "items.item_id"))
    title = read_cell(row.values, spec.title, _spoken(text, spec))
    deleted = read_cell(row.values, spec.deleted or None, boolean) or False
    if spec.require_title and not (title or deleted):
        raise Refused(Reason.EMPTY_TITLE, lacking(row, spec.title, "items.title"))
    attributes, unreadable = _attributes(row.values, spec)
    described = json.dumps(attributes, sort_keys=True)
    characters = len(title) + len(described)
    if characters > spec.max_text_chars:
        raise Refused(
            Reason.TEXT_TOO_LONG, f"{characters} characters of text, at most {spec.max_text_chars} are accepted"
        )
    if not (deleted or title or described != "{}" or pictures_of(row.values, spec)):
        raise unreadable[0] if unreadable else Refused(Reason.NO_CONTENT, "neither text nor image")
    item = {
        "item_id": item_id,
        "title": title or None,
        "attributes": described,
        "text_hash": text_hash(title, described),
        "deleted": deleted,
        "source_row": row.number,
    }
    return item, unreadable


def _attributes(row: dict[str, Any], spec: ItemsSpec) -> tuple[dict[str, str | list[str]], list[Refused]]:
    """Return the attributes of a row that have a value, and the refusals of those that cannot be read."""
    found, unreadable = dict[str, str | list[str]](), list[Refused]()
    for name in row:
        if name in spec.not_attributes:
            continue
        try:
            check_name(name)
            if value := read_cell(row, name, _spoken(values, spec)):
                found[name] = value
        except Refused as refused:
            unreadable.append(refused)
    return found, unreadable


def text_hash(title: str, described: str) -> str:
    """Return the hash of a title ("" if there is none) and of attributes as JSON."""
    return hashlib.blake2b(f"{title}\0{described}".encode(), digest_size=16).hexdigest()


def subject_of(row: Row, spec: ItemsSpec) -> str | None:
    """Return the item id of a refused row, if it has one."""
    try:
        return read_cell(row.values, spec.item_id, identifier)
    except Refused:
        return None


def pictures_of(row: dict[str, Any], spec: ItemsSpec) -> list[Reference]:
    """Return the pictures that a row names. Raise Refused."""
    return read_cell(row, spec.image or None, _references)


def _references(value: Any, column: str) -> list[Reference]:
    if isinstance(value, list | tuple | dict):
        check_depth(value, column)
    return references(text(value, column) if isinstance(value, Unreadable) else value)


def _spoken(convert: Callable[[Any, str], T], spec: ItemsSpec) -> Callable[[Any, str], T]:
    """Wrap `convert` to take cells in the wanted languages, if any are set."""
    if not spec.languages:
        return convert
    return lambda value, column: convert(in_language(value, spec.languages), column)
