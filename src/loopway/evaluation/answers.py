"""A cache of a model's answers to single requests, as JSON lines.

A file belongs to one model: its name is a hash of weights, tokenizer and settings. In it, the hash of a request's text is its
key. Knows nothing of the harness.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loopway.files import damage_told


def request_key(kind: str, arguments: Sequence[Any]) -> str:
    """Return the hash of a request: of its kind (`loglikelihood`, ...) and its JSON arguments."""
    return hashlib.sha256(json.dumps([kind, *arguments]).encode()).hexdigest()


class Answers:
    """The answers in a file, to which new ones are appended at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = _read(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def get(self, kind: str, arguments: Sequence[Any]) -> Any | None:
        """Return the answer to a request, None if it is unknown."""
        return self._known.get(request_key(kind, arguments))

    def add_partial(self, kind: str, arguments: Sequence[Any], answer: Any) -> None:
        """Store an answer. Named after the method of the harness's cache, which calls it for each answer."""
        key = request_key(kind, arguments)
        if key not in self._known:
            self._known[key] = answer
            self._file.write(json.dumps([key, answer]) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def _read(path: Path) -> dict[str, Any]:
    """Read a file, and drop a truncated last line from it."""
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
