"""Answers of a model to single requests, kept as JSON lines, so that none is computed twice.

A file belongs to one model: its name is a hash of weights, tokenizer and settings, so a changed model never finds the
answers of another. Within it a request is known by a hash of its own text. Knows nothing of the harness.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loopway.files import damage_told


def request_key(kind: str, arguments: Sequence[Any]) -> str:
    """The hash of a request: its kind (`loglikelihood`, ...) and its arguments, which are JSON."""
    return hashlib.sha256(json.dumps([kind, *arguments]).encode()).hexdigest()


class Answers:
    """The answers in a file; new ones are added to it as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = _read(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def get(self, kind: str, arguments: Sequence[Any]) -> Any | None:
        """The answer to a request, None if it isn't known."""
        return self._known.get(request_key(kind, arguments))

    def add_partial(self, kind: str, arguments: Sequence[Any], answer: Any) -> None:
        """Keep an answer. The name is that of the harness's own cache, which calls this as each answer is there."""
        key = request_key(kind, arguments)
        if key not in self._known:
            self._known[key] = answer
            self._file.write(json.dumps([key, answer]) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def _read(path: Path) -> dict[str, Any]:
    """What a file holds; a last line that was cut off is dropped from the file."""
    if not path.exists():
        return {}
    known, whole = {}, 0
    content = path.read_bytes()
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        with damage_told(path, "delete it, and what it held is computed again"):
            key, answer = json.loads(line)
            known[key] = answer
        whole += len(line)
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    return known
