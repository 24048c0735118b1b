"""What a person sees of a run: bars on a terminal, one plain line per stage elsewhere."""

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
from pipelines.ingest.accounting import Counts

FIRST_TICK_S = 2.0


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


class RowsASecond(ProgressColumn):
    """How fast a bar moves."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.{0 if task.speed >= 10 else 1}f} rows/s" if task.speed else "")


class Display:
    """Shows stages on stdout; `log` also hears every line."""

    def __init__(self, log: Callable[[str], None] = lambda line: None) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._log = log

    def say(self, line: str) -> None:
        line = printable(without_secrets(line))
        self._console.print(line, markup=False)
        sys.stdout.flush()
        self._log(line)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[tuple[StageView, Callable[[], float]]]:
        """A stage that is running; yields its view and a clock of the seconds it has taken."""
        view, start = StageView(name), time.perf_counter()

        def seconds() -> float:
            return time.perf_counter() - start

        with self._moving(view, total) if self._console.is_terminal else self._ticking(name, seconds):
            yield view, seconds
        self.say(f"  {name:<18} {seconds():6.1f} s  {'; '.join(view.notes)}".rstrip())

    @contextmanager
    def _moving(self, view: StageView, total: int | None) -> Iterator[None]:
        """A bar, with speed and remaining time where the total is known."""
        known = (MofNCompleteColumn(), RowsASecond(), TimeElapsedColumn(), TimeRemainingColumn())
        columns = known if total else (TimeElapsedColumn(),)
        described = TextColumn("  {task.description:<18}")
        with Progress(described, BarColumn(bar_width=10), *columns, console=self._console, transient=True) as bars:
            bar = bars.add_task(view.name, total=total or None)
            view.advance = lambda rows: bars.advance(bar, rows)
            yield

    @contextmanager
    def _ticking(self, name: str, seconds: Callable[[], float]) -> Iterator[None]:
        """A line that a stage goes on, where there is no terminal: each time it has taken twice as long."""
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
