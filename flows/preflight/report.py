"""Findings about a run before it starts: lines by heading, warnings, and faults that would stop it."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

READ, REFUSED, MAKES, TIME = "would read", "in a sample", "would make", "takes about"
HEADINGS = (READ, REFUSED, MAKES, TIME)
NAME_WIDTH = 13
"""Characters of the column of names: lines that are broken go on behind it."""


class PreflightFailed(ValueError):
    """Raised when a run would not come to its end."""


@dataclass
class Report:
    """Findings about a run of a kind, such as bootstrap."""

    kind: str
    lines: dict[str, list[str]] = field(default_factory=lambda: {heading: [] for heading in HEADINGS})
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, heading: str, name: str, text: str) -> None:
        """Add a line about a part of the run."""
        self.lines[heading].append(f"{name:<{NAME_WIDTH}} {text}")

    def as_text(self, width: int | None = None) -> Iterator[str]:
        """Yield the report as lines, broken between words if they are longer than `width`."""
        for heading, lines in self.lines.items():
            if lines:
                yield heading
                for line in lines:
                    yield from _broken(f"  {line}", width, NAME_WIDTH + 3)
        for kind, found in (("warning", self.warnings), ("error", self.errors)):
            for each in found:
                yield from _broken(f"{kind}: {each}", width, 2)
        if not self.errors:
            yield f"Nothing was found that would stop the {self.kind}."

    def check(self) -> None:
        """Raise PreflightFailed if there are faults."""
        if self.errors:
            faults = "1 fault" if len(self.errors) == 1 else f"{len(self.errors)} faults"
            raise PreflightFailed(f"{faults} would stop the {self.kind}: see the lines above that begin with `error:`.")


def _broken(line: str, width: int | None, indent: int) -> list[str]:
    if width is None:
        return [line]
    return textwrap.wrap(
        line, max(40, width), subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
