"""metrics.jsonl: one JSON object per line, in the order of steps, each step once, also after a resume.

A line has `step`, `tokens`, `epoch`, `seconds` and either `loss`, `learning_rate`, `grad_norm`, `tokens_per_second`, `mfu`
(means since the line before), or `validation_loss`, `validation_perplexity`, or, for a skipped step,
`skipped_loss`, `skipped_grad_norm`. Knows nothing of the Trainer.
"""

import json
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from loopway.files import write_atomically


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines; omit those that a crash cut off, or that hold no step."""
    lines = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, RecursionError):
                lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]


class MetricsLog:
    """Appends to metrics.jsonl, after dropping the lines beyond the step from which a run resumes.

    `write` is False in all workers but the first, which keep the lines in memory.
    """

    def __init__(self, path: Path, resumed_step: int, *, write: bool = True) -> None:
        self.path = path
        self.write = write
        self.lines = [line for line in read_metrics(path) if line["step"] <= resumed_step]
        self._newest: dict[str, Any] = {}
        for line in self.lines:
            self._newest |= line
        if write:
            write_atomically(path, "".join(f"{json.dumps(line)}\n" for line in self.lines))

    @property
    def seconds(self) -> float:
        """Wall time of the run up to the last line, over all its sittings."""
        return self.last("seconds") or 0.0

    def last(self, key: str) -> float | None:
        """The newest value of `key`."""
        return self._newest.get(key)

    def append(self, line: dict[str, Any]) -> None:
        kind = next((name for name in ("validation_loss", "skipped_loss") if name in line), "loss")
        of_step = takewhile(lambda old: old["step"] == line["step"], reversed(self.lines))
        if any(kind in old for old in of_step):
            return  # evaluated again after a resume at the last step
        self.lines.append(line)
        self._newest |= line
        if self.write:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
