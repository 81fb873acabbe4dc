"""Progress as the command line shows it, on standard error: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class Console:
    """Shows units done, the time, and pictures evaluated per second. unit: what is counted, in lines."""

    def __init__(self, unit: str = " units") -> None:
        self._unit = unit
        self._live = sys.stderr.isatty()
        self._bar: Progress | None = None
        self._pictures, self._begun, self._last = 0, 0.0, 0.0

    def __enter__(self) -> Console:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def start(self, description: str, total: int) -> None:
        self._begun, self._pictures = time.monotonic(), 0
        self._last = self._begun
        if self._bar:  # of what was done before
            self._bar.stop()
        if not self._live:
            print(description, file=sys.stderr, flush=True)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[speed]}"), console=RichConsole(stderr=True))
        self._bar.start()
        self._bar.add_task(description, total=total, speed="")

    def advance(self, pictures: int) -> None:
        self._pictures += pictures
        if self._bar:
            self._bar.update(self._bar.task_ids[0], speed=self._speed())

    def finish_unit(self, done: int, total: int) -> None:
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done)
        elif time.monotonic() - self._last > SECONDS_BETWEEN_LINES or done == total:
            self._last = time.monotonic()
            print(f"{done}/{total}{self._unit}, {self._last - self._begun:.0f} s, {self._speed()}", file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """A line that stays, above the bar where there is one."""
        if self._bar:
            self._bar.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _speed(self) -> str:
        return f"{self._pictures / max(time.monotonic() - self._begun, 1e-9):.0f} pictures/s"
