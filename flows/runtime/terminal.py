"""Safe printing of foreign text: characters that control the terminal or reorder the line are escaped."""

import re
import sys

_STEERS = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1 controls, with ESC and line breaks
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that change the direction of text
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff]"  # lone surrogates, which cannot be encoded
)
_LINES = re.compile(r"\n")


def printable(text: str) -> str:
    """Return `text` as one line, with control characters escaped."""
    return _STEERS.sub(_escaped, text)


def printable_lines(text: str) -> str:
    """Return `text` as `printable` does, with line breaks kept: for messages of several lines."""
    return "\n".join(map(printable, _LINES.split(text)))


def say(text: str) -> None:
    """Print one line."""
    print(printable(text))


def warn(text: str) -> None:
    """Print one line on standard error, at once."""
    print(printable(text), file=sys.stderr, flush=True)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
