"""The errors that a user's own input can cause.

Every one is a ``ValueError`` whose message says what was given, what is allowed and what to do; the command
line prints it as one line and exits 2. With LOOPWAY_DEBUG=1 the traceback comes before it. Knows nothing of who raises
them.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class LoopwayError(ValueError):
    """A mistake in what the user gave: a layout, a config, a path, a text file."""


class LayoutError(LoopwayError):
    """A layout string that can't be read, or that its recurrence can't be used with."""


class RecurrenceError(LoopwayError):
    """An unknown recurrence, or options that it can't work with."""


class FamilyError(LoopwayError):
    """A decoder family that isn't supported, or a family config that can't be looped."""


class ConfigError(LoopwayError):
    """A run or comparison config with an unknown key, a wrong type or an impossible value."""


class DataError(LoopwayError):
    """Text or token data that is missing, empty, unreadable or too short."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """What ends a program: a user's mistake is one line on standard error and exit code 2, Ctrl-C is 130.

    So is what the system refuses (a full disk, a folder without the right to write): it is no fault of the program.
    """
    try:
        yield
    except LoopwayError as error:
        _show_traceback(error)
        print(f"loopway: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno is None:  # a library's own, which needs its traceback
            raise
        _show_traceback(error)
        place = f": {error.filename}" if error.filename else ""
        print(f"loopway: the system says {error.strerror!r}{place}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _show_traceback(error: BaseException) -> None:
    """Where that is asked for: with the errors that it stands for, those behind a `from None` too."""
    if os.environ.get("LOOPWAY_DEBUG", "0") in ("", "0"):
        return
    cause: BaseException | None = error
    while cause is not None:
        cause.__suppress_context__ = cause.__cause__ is not None
        cause = cause.__cause__ or cause.__context__
    traceback.print_exception(error)
