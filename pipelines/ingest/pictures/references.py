"""Parser of the pictures that a cell names: bytes, text, objects as catalogues write them, and lists of these."""

import base64
import binascii
import json
import re
from typing import Any
from urllib.parse import unquote_to_bytes

from pipelines.sources.cells import Refused, Unreadable, check_depth, is_null_word, kind_of, shown

Reference = str | bytes | Refused
"""A picture as its bytes, as its address, or the reason why the cell names none."""

KEYS = (
    "bytes",
    "hi_res",
    "original",
    "full",
    "large",
    "url",
    "uri",
    "path",
    "src",
    "href",
    "link",
    "image",
    "medium",
    "small",
    "thumbnail",
    "thumb",
)
"""Fields of an object that name its picture, largest size first; the first that names one counts."""


_OF_BASE64 = {"/9j/": "jpeg", "iVBORw0KGgo": "png", "UklGR": "webp", "R0lGOD": "gif"}
_BASE64 = re.compile("|".join(map(re.escape, _OF_BASE64)))
"""How pictures begin in base64."""
_PYTHON = re.compile(r"[\[{(\s]*(u?'|None\b)")
"""Beginning of a list or an object that Python printed."""
_SHORTEST_BASE64 = 64
"""Length from which a text that begins so is no path."""


def references(value: Any) -> list[Reference]:
    """Return one reference per picture; the sizes of a picture in one object are one picture."""
    try:
        if isinstance(value, list | tuple | dict):
            check_depth(value, "the cell")
        return _references(value)
    except Refused as error:  # also of JSON in the cell
        return [Refused("image_reference_unknown", error.detail)]


def _references(value: Any) -> list[Reference]:
    if isinstance(value, dict):
        return _of_object(value)
    if isinstance(value, list | tuple):
        return _of_list(value)
    if value is None or value is False or value != value:
        return []
    if isinstance(value, bytes):
        return [value] if value else []
    return _of_text(value) if isinstance(value, str) else [_no_picture(_kind(value))]


def _of_list(value: list[Any] | tuple[Any, ...]) -> list[Reference]:
    if value and all(isinstance(each, tuple) and len(each) == 2 for each in value):
        return _of_object(dict(value))  # a map of Parquet
    if _are_numbers(value):
        return [_no_picture(f"a list of {len(value):,} numbers")]
    return [found for each in value for found in _references(each)]


def _are_numbers(value: list[Any] | tuple[Any, ...]) -> bool:
    return bool(value) and all(isinstance(each, int | float) for each in value)


def _of_text(value: str) -> list[Reference]:
    """Return the pictures that a text names; formats without lists hold lists and objects as JSON."""
    bare = value.strip()
    if is_null_word(bare):
        return []
    if bare[0] in "[{":
        try:
            inner = json.loads(bare)
            check_depth(inner, "the JSON")
        except (ValueError, RecursionError):
            if _PYTHON.match(bare):
                told = f"the text {shown(value)} is a list or an object as Python prints it: write JSON (json.dumps)"
                return [Refused("image_reference_unknown", told)]
            return [_no_picture(f"the text {shown(value)}, which begins as JSON and is none,")]
        return _references(inner)
    if (found := _BASE64.match(bare)) is not None and len(bare) >= _SHORTEST_BASE64:
        kind = _OF_BASE64[found[0]]
        told = f"the text {shown(bare)} is a picture in base64: write 'data:image/{kind};base64,' in front of it"
        return [Refused("image_reference_unknown", told)]
    return [bare if "//" in bare else value]


def _kind(value: Any) -> str:
    return value.why if isinstance(value, Unreadable) else f"{kind_of(value)}, {shown(value)},"


def _no_picture(told: str) -> Refused:
    return Refused("image_reference_unknown", f"{told} names no picture")


def _of_object(value: dict[Any, Any]) -> list[Reference]:
    known = [key for key in KEYS if key in value]
    if not known:
        if not value:
            return []
        keys = ", ".join(sorted(map(str, value))[:12])
        return [
            Refused("image_reference_unknown", f"an object with {keys}: a picture stands in one of {', '.join(KEYS)}")
        ]
    columns = [value[key] for key in known]
    lists = [each for each in columns if isinstance(each, list | tuple) and not _are_numbers(each)]
    if lists:  # one list per size, all of the same pictures in the same order
        longest = max(map(len, lists))
        rows = [[each[at] for each in lists if at < len(each)] for at in range(longest)]
        return [found for row in rows for found in _first(row)]
    return _first(columns)


def _first(values: list[Any]) -> list[Reference]:
    return next((found for each in values if (found := _references(each))), [])


def data_uri(text: str, limit: int) -> bytes:
    """Return the bytes in a `data:` URI; raise Refused if they are too many or not base64."""
    head, comma, body = text.partition(",")
    if not comma:
        raise Refused("image_address", f"{text[:40]!r}: a data URI has a comma before its data: write it whole")
    if len(body) > 4 * limit:
        raise Refused("image_too_large", f"a data URI of {len(body)} characters, at most {limit} bytes are accepted")
    try:
        data = unquote_to_bytes(body)
        if head.lower().endswith(";base64"):
            data = base64.b64decode(b"".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("image_address", f"{head[:40]!r}: the data is not base64 ({error}): write it whole") from error
    if len(data) > limit:
        raise Refused("image_too_large", f"{len(data)} bytes, at most {limit} are accepted")
    return data
