"""What an interrupted preparation leaves behind: how far it was, beside the files written so far.

Knows nothing of how a preparation is done.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

from loopway.errors import DataError
from loopway.files import write_atomically


@dataclass
class Checkpoint:
    """State between two pieces. Everything is JSON."""

    source: int = 0
    """Number of the source that is being read, in the order of the work; all before it are done."""
    position: list[int] | None = field(default_factory=lambda: [0, 0])
    """Where in the source reading goes on; None: with the next one."""
    prefix: str | None = None
    """Digest of the bytes before the position, unpacked; None of a source that is read in rows."""
    sides: dict[str, Any] = field(default_factory=dict)
    """Of :class:`loopway.data.preparation.sides.Sides`."""
    counts: dict[str, Any] | None = None
    """What was written, once all of it is."""

    def write(self, path: Path) -> None:
        write_atomically(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """A new one if there is none at ``path``."""
        if not path.exists():
            return cls()
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise DataError(f"{path}: damaged; delete the folder {path.parent} and begin again") from None


class LineFile:
    """A JSONL file that grows, and can be cut back to where a checkpoint saw it."""

    def __init__(self, path: Path, length: int) -> None:
        self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(length)
        self._file.seek(length)

    def append(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def checkpoint(self) -> int:
        """The file's length; all of it is on disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
