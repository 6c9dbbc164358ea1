"""Errors caused by user input.

Each is a ``ValueError`` whose message says what was given, what is allowed and what to do. The command line prints it
as one line and exits with code 2; with LOOPWAY_DEBUG=1 it prints the traceback first. Knows nothing of who raises them.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class LoopwayError(ValueError):
    """Invalid user input: a layout, a config, a path, a text file."""


class LayoutError(LoopwayError):
    """A layout string that is invalid, or that doesn't suit its recurrence."""


class RecurrenceError(LoopwayError):
    """An unknown recurrence, or options that it doesn't support."""


class FamilyError(LoopwayError):
    """A decoder family that isn't supported, or a family config that can't be looped."""


class ConfigError(LoopwayError):
    """A run or comparison config with an unknown key, a wrong type or an impossible value."""


class DataError(LoopwayError):
    """Text or token data that is missing, empty, unreadable or too short."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print a user's mistake as one line on standard error and exit with code 2; exit with 130 on Ctrl-C.

    An error of the operating system (a full disk, no write permission) is handled like a user's mistake.
    """
    try:
        yield
    except LoopwayError as error:
        _show_traceback(error)
        print(f"loopway: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno is None:  # raised by a library, not the system: it needs its traceback
            raise
        _show_traceback(error)
        place = f": {error.filename}" if error.filename else ""
        print(f"loopway: the system says {error.strerror!r}{place}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _show_traceback(error: BaseException) -> None:
    """Print the traceback with all causes, those hidden by `from None` too, if LOOPWAY_DEBUG asks for it."""
    if os.environ.get("LOOPWAY_DEBUG", "0") in ("", "0"):
        return
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = cause.__cause__ is not None
        cause = cause.__cause__ or cause.__context__
    traceback.print_exception(error)
