"""A user's Python files, which run before the model is built and register its parts.

Knows nothing of what they register.
"""

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loopway.checks import one_line
from loopway.errors import ConfigError, LoopwayError

_loaded: set[Path] = set()


@contextmanager
def plugin_errors_told(what: str) -> Iterator[None]:
    """Raise a one-line ConfigError, which begins with ``what``, for any exception of a user's code."""
    try:
        yield
    except LoopwayError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{what} failed: {type(error).__name__}: {one_line(error)}") from error


def load_plugins(paths: Iterable[Path | str]) -> None:
    """Execute each file, once a process, as a module named after it.

    Raises:
        ConfigError: a file is missing or fails while it runs.
    """
    for path in map(Path, paths):
        if not path.is_file():
            raise ConfigError(f"plugins: no file {path}")
        if path.resolve() in _loaded:
            continue
        name = f"loopway_plugin_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"plugins: {path} is not a Python file (.py)")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and torch look a class's module up by name
        with plugin_errors_told(f"plugins: {path}"):
            spec.loader.exec_module(module)
        _loaded.add(path.resolve())
