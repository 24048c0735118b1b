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
)
from rich.text import Text

from flows.runtime.pace import Pace
from flows.runtime.terminal import printable
from infra.addresses import without_secrets
from pipelines.counts import Counts

# Seconds after which a running stage prints its first line if there is no terminal.
FIRST_TICK_S = 2.0


@dataclass
class StageView:
    """A running stage: `advance` counts rows that are done; `count` and `note` add to its final line and its record."""

    name: str
    pace: Pace = field(default_factory=Pace)
    moved: list[Callable[[], None]] = field(default_factory=list)
    """Functions that show the progress, called when there is some."""
    notes: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)

    def advance(self, rows: int) -> None:
        self.pace.advance(rows)
        for show in self.moved:
            show()

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


class PaceColumn(ProgressColumn):
    """Speed of a stage and the time that is left, as a column."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def render(self, task: Task) -> Text:
        speed, left = self._pace.speed, self._pace.left_s
        said = [] if speed is None else [f"{_number(speed)} rows/s"]
        return Text(", ".join(said + ([] if left is None else [f"{duration(left)} left"])))


def _number(value: float) -> str:
    return f"{value / 1000:,.0f}k" if value >= 10_000 else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Return a duration as people say it: `8 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _rows_and_left(pace: Pace) -> str:
    """Return the rows that are done, if they are counted, and the time that is left, if it is known."""
    if not pace.total or not pace.done:
        return ""
    left = "" if pace.left_s is None else f", about {duration(pace.left_s)} left"
    return f", {pace.done:,} of {pace.total:,} rows{left}"


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
        view, start = StageView(name, Pace(total)), time.perf_counter()

        def seconds() -> float:
            return time.perf_counter() - start

        with self._moving(view) if self._console.is_terminal else self._ticking(view, seconds):
            yield view, seconds
        self.say(f"  {name:<18} {seconds():6.1f} s  {'; '.join(view.notes)}".rstrip())

    @contextmanager
    def _moving(self, view: StageView) -> Iterator[None]:
        """Show a bar, with speed and remaining time if the total is known."""
        pace = view.pace
        known = (MofNCompleteColumn(), TimeElapsedColumn(), PaceColumn(pace))
        columns = known if pace.total else (TimeElapsedColumn(),)
        described = TextColumn("  {task.description:<18}")
        with Progress(described, BarColumn(bar_width=8), *columns, console=self._console, transient=True) as bars:
            bar = bars.add_task(view.name, total=pace.total or None)
            view.moved.append(lambda: bars.update(bar, completed=pace.done))
            yield

    @contextmanager
    def _ticking(self, view: StageView, seconds: Callable[[], float]) -> Iterator[None]:
        """Without a terminal, print a line after FIRST_TICK_S of a stage, and each time its seconds have doubled."""
        over = threading.Event()

        def tick() -> None:
            wait = FIRST_TICK_S
            while not over.wait(max(0.0, wait - seconds())):
                self.say(f"  {view.name:<18} {seconds():6.1f} s so far{_rows_and_left(view.pace)}")
                wait *= 2

        ticker = threading.Thread(target=tick, name="stage-ticker", daemon=True)
        ticker.start()
        try:
            yield
        finally:
            over.set()
            ticker.join()
