"""Commented TOML: sections of fields, each with the reason for its value."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flows.runtime.terminal import printable

WIDTH = 100
"""Longest line with a comment behind its value; a longer comment stands above."""
ABOVE = 80
"""Width of comments above a field, `# ` included: they are wrapped to fit a terminal."""


@dataclass(frozen=True)
class Entry:
    """A field, its value, and the reason."""

    name: str
    value: Any
    why: str = ""


@dataclass(frozen=True)
class TomlSection:
    """A section with a comment above it; one that is not `active` is commented out as a whole."""

    name: str
    entries: tuple[Entry, ...] = ()
    comment: str = ""
    active: bool = True

    def render(self) -> str:
        """Return the lines of the section."""
        lines = [f"[{self.name}]", *_fields(self.entries)]
        if not self.active:
            lines = [line if line.startswith("#") else f"# {line}" for line in lines]
        return "\n".join([*comment(self.comment), *lines])


def comment(text: str) -> list[str]:
    """Return a text as lines of comment; line breaks in it stay, and broken lines are indented."""
    lines: list[str] = []
    for each in text.split("\n") if text else []:
        indent = " " * (len(each) - len(each.lstrip()))
        lines += textwrap.wrap(printable(each), ABOVE - 2, subsequent_indent=indent and indent + "  ") or [""]
    return [f"# {line}".rstrip() for line in lines]


def _fields(entries: Sequence[Entry]) -> list[str]:
    shown = [(f"{each.name} = {toml(each.value)}", printable(each.why)) for each in entries]
    short = [line for line, why in shown if len(line) + len(why) + 4 <= WIDTH]
    width = max(map(len, short), default=0)
    lines: list[str] = []
    for line, why in shown:
        if not why:
            lines.append(line)
        elif width + len(why) + 4 <= WIDTH and len(line) <= width:
            lines.append(f"{line:<{width}}  # {why}")
        else:
            lines += [*comment(why), line]
    return lines


def toml(value: Any) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
