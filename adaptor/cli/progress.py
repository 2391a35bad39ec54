"""How far something is: bars at a terminal, else a line for each tenth. All of it goes to standard error."""

import sys
import threading
from types import TracebackType
from typing import Any, Self, TextIO

_MIB = 1 << 20


class Bars:
    """A `providers.base.Progress` for people; it may be told from several threads."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()
        self._last: tuple[str, int] = ("", -1)
        self._tasks: dict[str, Any] = {}
        self._bars = _rich(self._stream) if self._stream.isatty() else None

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """See Progress."""
        with self._lock:
            if self._bars is not None:
                if what not in self._tasks:
                    self._tasks[what] = self._bars.add_task(what, total=total or None)
                self._bars.update(self._tasks[what], completed=done)
                return
            tenth = 10 * done // total if total else 0
            if (what, tenth) == self._last:
                return
            self._last = (what, tenth)
            measure = f": {10 * tenth} % of {-(-total // _MIB)} MiB" if total else ""
            print(f"{what}{measure}", file=self._stream, flush=True)


def _rich(stream: TextIO) -> Any:
    """Bars; None, hence lines, where the package is missing."""
    try:
        from rich import progress
        from rich.console import Console
    except ModuleNotFoundError:
        return None
    columns = (
        progress.TextColumn("{task.description:24}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    return progress.Progress(*columns, console=Console(file=stream))
