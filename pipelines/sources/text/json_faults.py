"""Diagnosis of a line that is no JSON, in words of our own."""

import json
import re

from infra.addresses import excerpt
from pipelines.sources.cells import shown

_EXCERPT = 24
"""Characters that a message quotes from the place of the fault on."""
_OF_PYTHON = re.compile(r"'|(u|b)'|None\b|True\b|False\b|nan\b|inf\b")
_PYTHON = "it is written as Python prints it: write JSON (json.dumps)"


def why_no_json(error: ValueError | RecursionError) -> str:
    """Return why a line is no JSON, with the place and what stands there."""
    if isinstance(error, RecursionError):
        return "lists and objects lie too deep in each other"
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    text, place = error.doc.rstrip("\r\n"), error.pos
    rest = text[place:]
    at = f"at character {place + 1:,}"
    if error.msg == "Extra data":
        return _behind(text, len(text) - len(rest.lstrip()), at)
    if place >= len(text) or (error.msg.startswith("Unterminated string") and text):
        return f"the line ends within its JSON, after {_quoted(text, max(0, len(text) - _EXCERPT))}"
    found = f"{at} stands {_quoted(text, place)}"
    if _OF_PYTHON.match(rest):
        return f"{found}: {_PYTHON}"
    if error.msg.startswith("Invalid control character"):
        written = json.dumps(rest[0])[1:-1]
        return f"{at} a text has a control character, which JSON writes as {written}"
    if error.msg.startswith("Invalid \\"):
        return f"{found}: a backslash in a text is written twice"
    if rest.startswith(("}", "]")):
        return f"{found}, where a value or a name should follow: take out the last comma"
    return f"{found}, which is no JSON"


def _quoted(text: str, place: int) -> str:
    return shown(excerpt(text, place, place + _EXCERPT))


def _behind(text: str, place: int, at: str) -> str:
    """Say what stands behind a whole value."""
    rest = text[place:]
    if rest == ",":
        return "a comma stands behind the object: write one object a line, with nothing between lines"
    if rest.startswith(("{", "[")):
        return f"{at} a second value begins: write one object a line"
    return f"{at} stands {_quoted(text, place)} behind the object: write one object a line and nothing else"
