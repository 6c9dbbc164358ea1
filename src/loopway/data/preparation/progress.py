"""How far a preparation is: a bar with MB/s and time left, or a line now and then where there is no terminal.

Knows nothing of what is being prepared.
"""

import sys
import time
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 30.0


class Meter:
    """A context manager. ``shown`` None: a bar on standard error if it is a terminal, else lines, half a minute apart."""

    def __init__(self, shown: bool | None = None) -> None:
        console = Console(stderr=True)
        self._lines = shown is not False and not sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=console,
            disable=shown is False or not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._bar.add_task("", speed="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._bar.disable:  # rich 14 prints an empty line even then
            self._bar.stop()

    def begin(self, description: str, total: float | None) -> None:
        """A new task of ``total`` bytes to read; None where that isn't known."""
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(description, total=total, speed="")
        self._description, self._total = description, total
        self._text_bytes, self._started = 0, time.perf_counter()
        self._last_line = self._started

    def update(self, done: float, text_bytes: int) -> None:
        """``done`` bytes of the total have been read; ``text_bytes`` more bytes of text are finished."""
        self._text_bytes += text_bytes
        now = time.perf_counter()
        speed = f"{decimal(int(self._text_bytes / max(now - self._started, 1e-3)))}/s"
        self._bar.update(self._task, completed=done, speed=speed)
        if self._lines and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            of = f" of {decimal(int(self._total))}" if self._total else ""
            print(
                f"{self._description}: {decimal(int(done))}{of}, {speed}{self._left(done)}", file=sys.stderr
            )

    def _left(self, done: float) -> str:
        left = self._bar.tasks[0].time_remaining
        if self._total is None or left is None or not done:
            return ""
        minutes, seconds = divmod(int(left), 60)
        return f", {minutes // 60}:{minutes % 60:02}:{seconds:02} left"
