"""Atomic file writes, and locks that give one process exclusive use of a folder.

Knows nothing of the files' content.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loopway.errors import ConfigError, LoopwayError

INCOMPLETE = ".incomplete"
"""Ending of a folder that is being filled."""
_held: set[int] = set()
"""File descriptors of the locks that this process holds."""


def write_atomically(path: Path, text: str) -> None:
    """Write text to a file atomically: a reader sees the old text or the new one, never a part."""
    aside = aside_of(path)
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error says more
            aside.unlink()
        raise


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write JSON atomically: NaN and infinity become null, arrays lists, paths text."""
    write_atomically(path, json.dumps(_plain(content), indent=indent, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value  # a NumPy array or scalar
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


@contextlib.contextmanager
def damage_told(path: Path, advice: str, error: type[LoopwayError] = ConfigError) -> Iterator[None]:
    """Turn a parsing failure within the block into a one-line error that names the file and says what to do.

    Raises:
        LoopwayError: of type ``error``; the block raised anything but a LoopwayError, OSError or MemoryError.
    """
    try:
        yield
    except (LoopwayError, OSError, MemoryError):
        raise
    except Exception as cause:
        raise error(f"{path}: damaged; {advice}") from cause


def aside_of(path: Path) -> Path:
    """Return the path that :func:`write_atomically` fills first; a killed process leaves it behind."""
    return path.with_name(f".{path.name}.partial")


def remove(*paths: Path) -> None:
    """Remove files, and folders with their content. Links are removed, not their targets."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: Path, otherwise: str) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` within the block, if the file system supports locks.

    Raises:
        ConfigError: another process holds it; the message begins with ``otherwise``.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{otherwise}; wait for it, or choose another folder") from None
        except OSError:
            pass  # a file system without locks
        _held.add(file.fileno())
        try:
            yield
        finally:
            _held.discard(file.fileno())


def _leave_locks_to_parent() -> None:
    """Close inherited lock files in a forked child: it may outlive its parent, and would keep the lock."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_locks_to_parent)
