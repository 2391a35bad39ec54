"""What the demo shows: one row per phase, as it happens, with its time and a bar of when it ran.

On a terminal the table is live; elsewhere (`--plain`, a pipe) each phase is one line when it ends.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

_BAR: Final = 28  # characters of the time column
_COLUMNS: Final = (1, 34, 9)  # mark, name, seconds
_WIDE: Final = 110  # columns of a terminal with room for the whole bar
_REFRESH: Final = 12  # times a second
_MARKS: Final = {"running": "", "done": "[green]✓[/]", "failed": "[red]✗[/]"}


@dataclass
class Row:
    """A phase. `note` is what was seen in it, for the reader."""

    name: str
    began: float
    depth: int = 0
    ended: float | None = None
    note: str = ""
    state: str = "running"

    def seconds(self, now: float) -> float:
        return (self.ended if self.ended is not None else now) - self.began


class Timeline:
    """Use as a context manager; `phase` times what runs in it, `past` adds what was timed elsewhere."""

    def __init__(self, console: Console, *, plain: bool) -> None:
        self._console = console
        self._plain = plain or not console.is_terminal
        self._began = time.monotonic()
        self._rows: list[Row] = []
        self._spinner = Spinner("dots")
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=_REFRESH, transient=False)

    def __enter__(self) -> Self:
        if not self._plain:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._plain:
            self._live.stop()

    @contextmanager
    def phase(self, name: str) -> Iterator[Row]:
        """Time a phase; an exception marks it failed and passes."""
        row = Row(name, time.monotonic())
        self._rows.append(row)
        try:
            yield row
        except BaseException:
            self._end(row, "failed")
            raise
        self._end(row, "done")

    def past(self, name: str, seconds: float, note: str) -> None:
        """A part of the phase under way that has just ended, timed by the process that did it."""
        now = time.monotonic()
        row = Row(name, now - seconds, depth=1, note=note)
        self._rows.append(row)
        self._end(row, "done", now)

    def _end(self, row: Row, state: str, at: float | None = None) -> None:
        row.ended, row.state = at or time.monotonic(), state
        if self._plain:
            mark = "ok  " if state == "done" else "FAIL"
            indent = "  " * row.depth
            line = f"{row.began - self._began:7.2f}s  {mark} {indent}{row.name:<{34 - len(indent)}} {row.seconds(0):7.3f}s  {row.note}"
            self._console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> Group:
        now = time.monotonic()
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False, expand=False)
        columns = (*_COLUMNS, _BAR if self._console.width >= _WIDE else _BAR // 3)
        for width in columns:
            table.add_column(width=width, no_wrap=True)
        table.add_column(no_wrap=True)
        # Cut here: a table that is too wide takes from every column.
        space = max(self._console.width - sum(columns) - len(columns), 0)
        span = max(now - self._began, 1.0)
        for row in self._rows[-(self._console.height - 3) :]:
            mark = self._spinner.render(now) if row.state == "running" else Text.from_markup(_MARKS[row.state])
            name = Text("  " * row.depth + row.name, style="dim" if row.depth else "")
            seconds = Text(f"{row.seconds(now):8.3f}s", style="bold" if row.state == "running" else "")
            note = Text(row.note, style="dim")
            note.truncate(space, overflow="ellipsis")
            table.add_row(mark, name, seconds, self._bar(row, now, span, columns[-1]), note)
        done = sum(row.state == "done" for row in self._rows if row.depth == 0)
        return Group(table, Text(f"{done} phases done, {now - self._began:.1f} s", style="dim"))

    def _bar(self, row: Row, now: float, span: float, width: int) -> Text:
        start = int((row.began - self._began) / span * width)
        length = max(1, round(row.seconds(now) / span * width))
        colour = {"running": "yellow", "done": "cyan", "failed": "red"}[row.state]
        return Text(" " * min(start, width - 1) + "━" * min(length, width - start), style=colour)
