"""Display of a run for people: progress bars on a terminal, else plain lines."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from flows.runtime.terminal import printable
from infra.addresses import without_secrets
from pipelines.counts import Counts

# Seconds after which a running stage prints its first line if there is no terminal.
FIRST_TICK_S = 2.0


@dataclass
class StageView:
    """A running stage: `advance` moves its bar; `count` and `note` add to its final line and its record."""

    name: str
    advance: Callable[[int], None] = lambda rows: None
    notes: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)

    def note(self, text: str, **detail: Any) -> None:
        self.notes.append(text)
        self.detail.update(detail)

    def count(self, counts: Counts, of: str = "rows") -> None:
        """Note rows in and their outcomes."""
        parts = [f"{counts.rows_in:,} {of}"]
        if counts.unchanged:
            parts.append(f"{counts.unchanged:,} there already")
        if counts.quarantined:
            reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in sorted(counts.by_reason.items()))
            parts.append(f"{counts.quarantined:,} quarantined ({reasons})")
        summary = counts.summary() if of == "rows" else {of: counts.summary()}
        self.note(", ".join(parts), **summary)


class RowsASecond(ProgressColumn):
    """Speed of a bar, as a column."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.{0 if task.speed >= 10 else 1}f} rows/s" if task.speed else "")


class Display:
    """Display of stages on stdout; `log` gets every line too."""

    def __init__(self, log: Callable[[str], None] = lambda line: None) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._log = log
        self.lines = list[str]()
        """All lines, for the log of a run that fails."""

    def say(self, line: str) -> None:
        line = printable(without_secrets(line))
        self._console.print(line, markup=False)
        sys.stdout.flush()
        self.lines.append(line)
        self._log(line)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[tuple[StageView, Callable[[], float]]]:
        """Show a running stage; yield its view and a function that returns its seconds so far."""
        view, start = StageView(name), time.perf_counter()

        def seconds() -> float:
            return time.perf_counter() - start

        with self._moving(view, total) if self._console.is_terminal else self._ticking(name, seconds):
            yield view, seconds
        self.say(f"  {name:<18} {seconds():6.1f} s  {'; '.join(view.notes)}".rstrip())

    @contextmanager
    def _moving(self, view: StageView, total: int | None) -> Iterator[None]:
        """Show a bar, with speed and remaining time if the total is known."""
        known = (MofNCompleteColumn(), RowsASecond(), TimeElapsedColumn(), TimeRemainingColumn())
        columns = known if total else (TimeElapsedColumn(),)
        described = TextColumn("  {task.description:<18}")
        with Progress(described, BarColumn(bar_width=10), *columns, console=self._console, transient=True) as bars:
            bar = bars.add_task(view.name, total=total or None)
            view.advance = lambda rows: bars.advance(bar, rows)
            yield

    @contextmanager
    def _ticking(self, name: str, seconds: Callable[[], float]) -> Iterator[None]:
        """Without a terminal, print a line after FIRST_TICK_S of a stage, and each time its seconds have doubled."""
        over = threading.Event()

        def tick() -> None:
            wait = FIRST_TICK_S
            while not over.wait(max(0.0, wait - seconds())):
                self.say(f"  {name:<18} {seconds():6.1f} s so far")
                wait *= 2

        ticker = threading.Thread(target=tick, name="stage-ticker", daemon=True)
        ticker.start()
        try:
            yield
        finally:
            over.set()
            ticker.join()
