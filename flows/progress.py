"""What a person sees of a run: bars on a terminal, one plain line per stage elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flows.terminal import printable
from pipelines.ingest import Counts


@dataclass
class StageView:
    """One stage while it runs: `advance` moves its bar, `counts` and `note` make up its final line."""

    name: str
    advance: Callable[[int], None] = lambda rows: None
    notes: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)

    def note(self, text: str, **detail: Any) -> None:
        self.notes.append(text)
        self.detail.update(detail)

    def count(self, counts: Counts, of: str = "rows") -> None:
        """Rows in and where they went."""
        parts = [f"{counts.rows_in:,} {of}"]
        if counts.unchanged:
            parts.append(f"{counts.unchanged:,} there already")
        if counts.quarantined:
            reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in sorted(counts.by_reason.items()))
            parts.append(f"{counts.quarantined:,} quarantined ({reasons})")
        told = counts.summary() if of == "rows" else {of: counts.summary()}
        self.note(", ".join(parts), **told)


class Display:
    """Shows stages on stdout; `log` also hears every line."""

    def __init__(self, log: Callable[[str], None] = lambda line: None) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._log = log

    def say(self, line: str) -> None:
        line = printable(line)
        self._console.print(line, markup=False)
        sys.stdout.flush()
        self._log(line)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[tuple[StageView, Callable[[], float]]]:
        """A stage that is running; yields its view and a clock of the seconds it has taken."""
        view, start = StageView(name), time.perf_counter()

        def seconds() -> float:
            return time.perf_counter() - start

        if self._console.is_terminal and total:
            columns = (
                TextColumn("  {task.description:<18}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self._console, transient=True) as bars:
                bar = bars.add_task(name, total=total)
                view.advance = lambda rows: bars.advance(bar, rows)
                yield view, seconds
        else:
            yield view, seconds
        self.say(f"  {name:<18} {seconds():6.1f} s  {'; '.join(view.notes)}".rstrip())
