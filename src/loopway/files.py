"""Files that are whole or not there, and folders that one process has for itself.

Knows nothing of what is in them.
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

_held: set[int] = set()
"""Descriptors of the lock files that this process holds."""


def write_atomically(path: Path, text: str) -> None:
    """A reader finds the old text or the new one, never a part."""
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
    """Write what JSON knows, atomically: NaN and infinity as null, arrays as lists, paths as text."""
    write_atomically(path, json.dumps(_plain(content), indent=indent, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value  # an array, or a number of NumPy's
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


@contextlib.contextmanager
def damage_told(path: Path, advice: str, error: type[LoopwayError] = ConfigError) -> Iterator[None]:
    """Raise a one-line error with the file's name and what to do, where the block, which only parses it, fails."""
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
    """Remove files, and folders with all that is in them; a link, not what it points to."""
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
    """Hold the lock file ``path`` alone within the block, where the file system has locks.

    Raises:
        ConfigError: one does; the message begins with ``otherwise``.
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
    """A lock lasts until every process that has its descriptor is gone: a forked one may outlive its parent."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_locks_to_parent)
