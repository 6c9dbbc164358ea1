"""Progress of a preparation: a bar with MB/s and remaining time, or occasional lines without a terminal."""

import sys
import time
from contextlib import AbstractContextManager

from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from loopway.console import screen

_SECONDS_BETWEEN_LINES = 30.0


class Meter(AbstractContextManager["Meter"]):
    """Progress display. ``shown`` None: a bar if standard error is a terminal, else a line every half minute."""

    def __init__(self, shown: bool | None = None) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        is_terminal = shown is not False and sys.stderr.isatty()
        console = screen(stderr=True)
        self._bar = Progress(*columns, console=console, disable=not is_terminal, transient=True)
        self._lines = shown is not False and not is_terminal and not console.quiet
        self._task = self._bar.add_task("")

    def __exit__(self, *_: object) -> None:
        if not self._bar.disable:  # rich 14 prints an empty line even then
            self._bar.stop()

    def begin(self, description: str, total: float | None) -> None:
        """Begin a task of ``total`` bytes to read; None if unknown."""
        self._bar.start()
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(description, total=total)
        self._description, self._total, self._text_bytes = description, total, 0
        self._started = self._last_line = time.perf_counter()

    def update(self, done: float, text_bytes: int) -> None:
        """Report progress: ``done`` bytes of the total are read, and ``text_bytes`` more bytes of text are finished."""
        self._text_bytes += text_bytes
        now = time.perf_counter()
        speed = f"{decimal(int(self._text_bytes / max(now - self._started, 1e-3)))}/s"
        self._bar.update(self._task, completed=done, description=f"{self._description}, {speed}")
        if self._lines and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line, left = now, self._bar.tasks[0].time_remaining
            of = f" of {decimal(int(self._total))}" if self._total else ""
            rest = f", {int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02} left" if left else ""
            print(f"{self._description}: {decimal(int(done))}{of}, {speed}{rest}", file=sys.stderr)
